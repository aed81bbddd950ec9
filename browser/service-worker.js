// Keeps the page and its model in this browser, so that it answers without a network from the second visit on.
// tools/browser.py writes the two constants: all files of the page, and a version of all of them together.

const FILES = [];
const VERSION = "";
const CACHE = `${registration.scope} ${VERSION}`; // the host's other folders may have builds of this page too

addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => Promise.all(FILES.map((file) => keep(cache, file)))).then(() => skipWaiting()));
});

async function keep(cache, file) {
  const response = await fetch(file, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${file}: ${response.status}`);
  // Some hosts send from index.html to ./, and browsers refuse to open a page with an answer that was redirected. Others
  // say that their answers vary by anything, and caches refuse such an answer. A copy is neither.
  if (!response.redirected && !response.headers.get("Vary")?.includes("*")) return cache.put(file, response);
  const headers = new Headers(response.headers);
  headers.delete("Vary");
  return cache.put(file, new Response(await response.blob(), { headers }));
}

addEventListener("activate", (event) => {
  const prefix = CACHE.slice(0, CACHE.lastIndexOf(":") + 1); // pages beside this one may keep something too
  event.waitUntil(caches.keys().then((names) => Promise.all(names.filter((name) => name.startsWith(prefix) && name !== CACHE).map((name) => caches.delete(name)))).then(() => clients.claim()));
});

addEventListener("fetch", (event) => {
  if (event.request.method !== "GET" || !event.request.url.startsWith(registration.scope)) return;
  event.respondWith(caches.open(CACHE).then((cache) => cache.match(event.request, { ignoreSearch: true, ignoreVary: true })).then((kept) => kept ?? fetch(event.request)));
});
