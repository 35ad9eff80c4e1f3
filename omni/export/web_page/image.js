// Preprocessing of images as omni.media.images has it: to a square of one size, with antialiasing.

/** Rounds half to even, as Python does. */
const rounded = value => Math.abs(value % 1) === 0.5 ? 2 * Math.round(value / 2) : Math.round(value);

/** A planar image: {width, height, data}, data (3, height, width) from 0 to 255. */
export function planes(rgba, width, height) {
  const data = new Float32Array(3 * width * height);
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let channel = 0; channel < 3; channel++) data[channel * width * height + pixel] = rgba[4 * pixel + channel];
  }
  return {width, height, data};
}

/** Cuts out the centre, or adds black on all sides. */
function centred(image, width, height) {
  const from = (size, wanted) => size >= wanted ? rounded((size - wanted) / 2) : -Math.floor((wanted - size) / 2);
  const left = from(image.width, width), top = from(image.height, height);
  const data = new Float32Array(3 * width * height);
  for (let channel = 0; channel < 3; channel++) for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    const row = y + top, column = x + left;
    if (row < 0 || row >= image.height || column < 0 || column >= image.width) continue;
    data[(channel * height + y) * width + x] = image.data[(channel * image.height + row) * image.width + column];
  }
  return {width, height, data};
}

/**
 * For each output position the first input position and weights, a triangle filter as wide as the reduction. Weights
 * are fixed-point numbers of 16 bits, as in PyTorch's resizing of bytes: `precision` of them are after the point.
 */
function weights(size, wanted) {
  const scale = size / wanted, support = Math.max(1, scale);
  const filters = Array.from({length: wanted}, (_, place) => {
    const centre = scale * (place + 0.5);
    const first = Math.max(0, Math.trunc(centre - support + 0.5)), end = Math.min(size, Math.trunc(centre + support + 0.5));
    const parts = Array.from({length: end - first}, (_, i) => Math.max(0, 1 - Math.abs((first + i - centre + 0.5) / support)));
    const sum = parts.reduce((one, other) => one + other, 0);
    return {first, parts: parts.map(part => part / sum)};
  });
  const largest = Math.max(...filters.flatMap(({parts}) => parts));
  let precision = 0;
  while (precision < 22 && Math.trunc(0.5 + largest * 2 ** (precision + 1)) < 2 ** 15) precision++;
  for (const filter of filters) filter.parts = filter.parts.map(part => Math.trunc(0.5 + part * 2 ** precision));
  return {filters, level: sum => Math.max(0, Math.min(255, Math.floor((sum + 2 ** (precision - 1)) / 2 ** precision)))};
}

/** Resizes each of the lines of `data`, (lines, size), to (lines, wanted). */
function resizedLines(data, size, wanted) {
  const {filters, level} = weights(size, wanted), lines = data.length / size, result = new Float32Array(lines * wanted);
  for (let line = 0; line < lines; line++) filters.forEach(({first, parts}, place) => {
    let sum = 0;
    for (let i = 0; i < parts.length; i++) sum += parts[i] * data[line * size + first + i];
    result[line * wanted + place] = level(sum);
  });
  return result;
}

/** Swaps the last two axes of (3, rows, columns). */
function transposed(data, rows, columns) {
  const result = new Float32Array(data.length);
  for (let channel = 0; channel < 3; channel++) for (let y = 0; y < rows; y++) for (let x = 0; x < columns; x++) {
    result[(channel * columns + x) * rows + y] = data[(channel * rows + y) * columns + x];
  }
  return result;
}

/** Bilinear with antialiasing: first the rows, then the columns. */
function resized(image, width, height) {
  let data = image.data;
  if (width !== image.width) data = resizedLines(data, image.width, width);
  if (height !== image.height) data = transposed(resizedLines(transposed(data, image.height, width), image.height, height), width, height);
  return {width, height, data};
}

/** Maps a planar image to pixels (3, size, size) from 0 to 1. `fit`: crop, pad or stretch. */
export function preprocessed(image, {size, fit}) {
  const {width, height} = image;
  if (fit === "crop" && width !== height) image = centred(image, Math.min(width, height), Math.min(width, height));
  if (fit === "pad" && width !== height) {
    const [high, wide] = [height, width].map(side => Math.max(1, rounded(side * size / Math.max(height, width))));
    image = centred(resized(image, wide, high), size, size);
  }
  return resized(image, size, size).data.map(value => value / 255);
}

/** The planes of a file that the browser shows; transparency on white. */
export async function decode(blob) {
  const bitmap = await createImageBitmap(blob);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height), context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  const {data} = context.getImageData(0, 0, bitmap.width, bitmap.height);
  return planes(data, bitmap.width, bitmap.height);
}
