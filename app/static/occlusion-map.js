// The occlusion map of an answer, as a drawing and in words. map: rows of numbers, positive for FAKE, negative for REAL.

// What the model saw of the picture, in grey, coloured by its occlusion map: full colour where that is strongest in this
// picture. left, top, right, bottom: what it saw, in shares of the picture.
export function drawOcclusionMap(canvas, picture, map, [left, top, right, bottom]) {
  const [x, y] = [left * picture.naturalWidth, top * picture.naturalHeight];
  const [width, height] = picture.naturalWidth ? [right * picture.naturalWidth - x, bottom * picture.naturalHeight - y] : [1, 1];
  const scale = 768 / Math.max(width, height);
  [canvas.width, canvas.height] = [Math.max(1, width * scale), Math.max(1, height * scale)];
  const pen = canvas.getContext("2d");
  const whole = [0, 0, canvas.width, canvas.height];
  pen.fillStyle = "#808080";
  pen.fillRect(...whole);
  if (picture.naturalWidth) {
    pen.imageSmoothingEnabled = width > 96;
    pen.drawImage(picture, x, y, width, height, ...whole);
    pen.globalCompositeOperation = "saturation"; // of grey: none
    pen.fillRect(...whole);
    pen.globalCompositeOperation = "source-over";
    pen.globalAlpha = 0.3;
    pen.fillRect(...whole);
    pen.globalAlpha = 1;
  }
  const most = Math.max(...map.flat().map(Math.abs)) || 1;
  const colours = map.flat().flatMap((value) => [...(value > 0 ? [230, 97, 0] : [30, 110, 220]), (230 * Math.abs(value)) / most]);
  const small = document.createElement("canvas");
  [small.width, small.height] = [map[0].length, map.length];
  small.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(colours), small.width), 0, 0);
  pen.imageSmoothingEnabled = true;
  pen.imageSmoothingQuality = "high";
  pen.drawImage(small, ...whole);
}

export function inWords(map) {
  const cells = map.flatMap((row, y) => row.map((value, x) => ({ value, x: x / row.length, y: y / map.length })));
  const place = ({ x, y }) => {
    const [across, down] = [["left", "", "right"][Math.floor(3 * x)], ["top", "", "bottom"][Math.floor(3 * y)]];
    return down ? `at the ${[down, across].join(" ").trim()}` : across ? `on the ${across}` : "in the middle";
  };
  const least = cells.reduce((one, other) => (other.value < one.value ? other : one));
  const most = cells.reduce((one, other) => (other.value > one.value ? other : one));
  const found = [];
  if (most.value > 0) found.push(`for FAKE is ${place(most)}`);
  if (least.value < 0) found.push(`for REAL is ${place(least)}`);
  return found.length ? `The strongest evidence ${found.join(", ")}.` : "No evidence anywhere.";
}
