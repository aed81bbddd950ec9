// What zlib packed, read as zlib reads it: to its own end, and what follows is passed over.

// Bytes. A browser's DecompressionStream keeps nothing of the piece in which something follows the end or is wrong: that
// piece is given once more, in smaller ones, at last byte by byte.
const PIECES = [2 ** 16, 2 ** 8, 1];

// The first `most` bytes of what is packed, fewer where it ends before, in order or not. Rejects where it is broken
// before there are so many.
export async function inflate(packed, most) {
  const whole = new Uint8Array(most);
  let [sound, size] = [0, 0];
  for (const piece of PIECES) {
    ({ sound, size } = await unpack(packed, whole, sound, piece));
    if (sound === packed.length || size === most) return whole.subarray(0, size);
  }
  if (!(await isComplete(packed.subarray(0, sound)))) throw new Error("broken");
  return whole.subarray(0, size);
}

// Unpacks into `whole`, up to its length. -> how many of the packed bytes were read without an error, and how many came
// of them. From the byte `start` on, they are read in pieces of that size.
async function unpack(packed, whole, start, piece) {
  const { readable, writable } = new DecompressionStream("deflate");
  const [reader, writer] = [readable.getReader(), writable.getWriter()];
  let [sound, size] = [0, 0];
  const read = async () => {
    while (size < whole.length) {
      const { done, value } = await reader.read();
      if (done) return;
      const part = value.subarray(0, whole.length - size);
      whole.set(part, size);
      size += part.length;
    }
    await reader.cancel(); // which ends the writing
  };
  const reading = read().catch(() => {});
  try {
    while (sound < packed.length) {
      const end = sound < start ? Math.min(sound + PIECES[0], start) : Math.min(sound + piece, packed.length);
      await writer.write(packed.subarray(sound, end)); // waits until all that came of the one before is read
      sound = end;
    }
    await writer.write(new Uint8Array());
  } catch {
    // `sound` tells where
  }
  await reader.cancel().catch(() => {});
  await reading;
  return { sound, size };
}

// Whether the last byte of what is packed ends it.
function isComplete(packed) {
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return unpacked.pipeTo(new WritableStream()).then(() => true, () => false);
}
