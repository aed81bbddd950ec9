// Pictures from a file chooser, a folder, a drop or the clipboard: [{file, name}], how many files were passed over, and
// the names of files and folders that cannot be read. What is chosen by itself is asked about, whatever it is. Of a
// folder's files, those that are pictures are.

const PICTURE = /\.(avif|bmp|gif|jpe?g|png|tiff?|webp)$/i;

const isPicture = (file) => file.type.startsWith("image/") || PICTURE.test(file.name);

const named = (file) => ({ file, name: file.webkitRelativePath || file.name || "pasted picture" });

export const picturesOfFiles = (files) => ({ pictures: [...files].map(named), passedOver: 0, unreadable: [] });

export function picturesOfFolder(files) {
  const pictures = [...files].filter(isPicture).map(named);
  return { pictures, passedOver: files.length - pictures.length, unreadable: [] };
}

// Folders are only told from files by "entries", which are there until the event's handler returns.
export async function picturesOfDrop(data) {
  const entries = [...data.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return picturesOfFiles(data.files);
  const found = { pictures: [], passedOver: 0, unreadable: [] };
  for (const entry of entries) await walk(entry, entry.isFile, found);
  return found;
}

async function walk(entry, isChosen, found) {
  const name = entry.fullPath.slice(1);
  try {
    if (entry.isDirectory) {
      for (const inside of await listed(entry)) await walk(inside, false, found);
      return;
    }
    const file = await new Promise((resolve, reject) => { entry.file(resolve, reject); });
    if (isChosen || isPicture(file)) found.pictures.push({ file, name });
    else found.passedOver += 1;
  } catch {
    found.unreadable.push(name);
  }
}

async function listed(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) { // a browser gives some at a time, Chromium a hundred, and none at the end
    const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (!some.length) return all.sort((one, other) => one.name.localeCompare(other.name));
    all.push(...some);
  }
}
