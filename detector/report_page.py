"""Style and script of the report (detector/report.py). Both stand in the file; it loads nothing."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #595959; --paper: #fff; --line: #ccc; --limit: #fff3d6;
  --fake: #a63c14; --real: #1d5fa8; --accent: #1d5fa8; --on-accent: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #eee; --soft: #b5b5b5; --paper: #191817; --line: #444;
  --limit: #3a2f10; --fake: #ff9b73; --real: #86b8f0; --accent: #86b8f0; --on-accent: #10202f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1rem 3rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 1rem; }
p { margin: 0 0 .75rem; }
.limit { background: var(--limit); padding: .75rem 1rem; border-radius: 4px; font-weight: 600; }
.soft, .note { color: var(--soft); font-size: .9rem; }
[hidden] { display: none !important; }
.controls { display: flex; flex-wrap: wrap; gap: .75rem 2rem; margin: 1.25rem 0; }
.controls div { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; }
button { font: inherit; min-height: 2.75rem; padding: .4rem .9rem; color: var(--ink); background: none;
  border: 1px solid var(--line); border-radius: 4px; cursor: pointer; }
button[aria-pressed=true] { background: var(--accent); color: var(--on-accent); border-color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
ol { list-style: none; margin: 0; padding: 0; }
li { display: flex; gap: 1rem; padding: 1rem 0; border-top: 1px solid var(--line); content-visibility: auto;
  contain-intrinsic-size: auto 10rem; }
li > div { min-width: 0; flex: 1; }
li > img, .none { width: 8rem; height: 8rem; object-fit: contain; flex: none; }
li > img { image-rendering: auto; }
li p { margin: 0; }
h2 { font-size: 1rem; margin: 0 0 .25rem; font-weight: 600; }
.headline { font-weight: 600; }
.FAKE b { color: var(--fake); } .REAL b { color: var(--real); }
.little .verdict, .little .verdict b { color: var(--soft); font-weight: 400; }
.claim { margin-top: .25rem; padding-left: .6rem; border-left: 3px solid var(--line); font-size: .9rem; }
details { margin-top: .25rem; } summary { padding: .6rem 0; cursor: pointer; }
@media (max-width: 40rem) { li > img, .none { width: 5rem; height: 5rem; } }
@media print { .controls { display: none; } li { break-inside: avoid; content-visibility: visible; }
  body { max-width: none; padding: 0; } }
"""

# Without it the report is whole, and in the order of the files.
SCRIPT = """
const list = document.querySelector("#cards"), items = [...list.children];
const keys = {
  place: () => 0,
  score: (item) => -(item.dataset.score ?? -1),
  name: (item) => item.querySelector("h2").textContent,
};
const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
function sort(by) {
  const keyed = items.map((item) => [keys[by](item), item]);
  list.append(...keyed.sort(([a], [b]) => order(a, b)).map(([, item]) => item));
}
function show(kind) {
  for (const item of items) item.hidden = kind !== "" && !item.classList.contains(kind);
}
for (const [id, act, first] of [["show", show, ""], ["sort", sort, "place"]]) {
  const buttons = document.querySelectorAll(`#${id} button`);
  const press = (one) => buttons.forEach((button) => button.setAttribute("aria-pressed", button === one));
  for (const button of buttons) {
    button.setAttribute("aria-pressed", button.value === first);
    button.addEventListener("click", () => { press(button); act(button.value); });
  }
}
document.querySelector(".controls").hidden = false;
"""
