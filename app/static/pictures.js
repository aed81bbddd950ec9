// Pictures from a file chooser, a folder, a drop or the clipboard: [{file, name}], how many files were passed over, and
// the names of files and folders that cannot be read. What is chosen by itself is asked about, whatever it is. Of a
// folder's files, those that are pictures are, in the shell's order; hidden ones are thumbnails, and what macOS puts
// beside files on foreign disks: detector/sources.py.

const PICTURE = /\.(avif|bmp|gif|jpe?g|png|tiff?|webp)$/i;

const isPicture = (file) => file.type.startsWith("image/") || PICTURE.test(file.name);

const isHidden = (name) => name.startsWith(".");

const byPath = ({ name: one }, { name: other }) => (one < other ? -1 : 1);

const named = (file) => ({ file, name: file.webkitRelativePath || file.name || "pasted picture" });

export const picturesOfFiles = (files) => ({ pictures: [...files].map(named), passedOver: 0, unreadable: [] });

export function picturesOfFolder(files) {
  // the first part of a path is the folder that was chosen
  const seen = [...files].filter((file) => !file.webkitRelativePath.split("/").slice(1).some(isHidden));
  const pictures = seen.filter(isPicture).map(named).sort(byPath);
  return { pictures, passedOver: seen.length - pictures.length, unreadable: [] };
}

// Folders are only told from files by "entries", which are there until the event's handler returns.
export async function picturesOfDrop(data) {
  const entries = [...data.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return picturesOfFiles(data.files);
  const found = { pictures: [], passedOver: 0, unreadable: [] };
  for (const entry of entries) await walk(entry, entry.isFile, found);
  found.pictures.sort(byPath);
  found.unreadable.sort();
  return found;
}

async function walk(entry, isChosen, found) {
  const name = entry.fullPath.slice(1);
  try {
    if (entry.isDirectory) {
      for (const inside of await listed(entry)) if (!isHidden(inside.name)) await walk(inside, false, found);
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
    if (!some.length) return all;
    all.push(...some);
  }
}
