"use strict";
// Volumes in a page: decoding them, cutting planes, colours. Nothing here knows about controls; viewer.js does.
//
// Positions are voxels [x, y, z] of an RAS grid: x grows to the patient's right, y to the front, z upwards. Volumes are held as
// the page stores them, in the radiological view: the first column is the patient's right, the first row is the front.

const PLANES = ["axial", "coronal", "sagittal"];
const AXIS = { sagittal: 0, coronal: 1, axial: 2 };
const LETTERS = { axial: ["R", "L"], coronal: ["R", "L"], sagittal: ["A", "P"] };
const TOO_BRIGHT = [255, 150, 40];
const TOO_DARK = [70, 160, 255];
const CROSS = "rgba(255, 214, 80, 0.75)";
// grey levels of the label picture: outside 0, brain 128, lesion 255
const inBrain = (label) => label > 60;
const inLesion = (label) => label > 200;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** The axes that run across and up a plane's picture. */
const across = (plane) => [0, 1, 2].filter((axis) => axis !== AXIS[plane]);

/** Screen pixels a CSS pixel; more than three cannot be seen. */
const density = () => Math.min(window.devicePixelRatio || 1, 3);

/** A DOM element with attributes and children; words are always text, never HTML. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Decode a picture of tiles, `wide` in a row, into a volume of bytes: one axial slice after the other, from the lowest. */
async function decode(uri, [nx, ny, nz], wide) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  const canvas = element("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const volume = new Uint8Array(nx * ny * nz);
  let to = 0;
  for (let z = 0; z < nz; z++) {
    const left = (z % wide) * nx, top = Math.floor(z / wide) * ny;
    for (let row = 0; row < ny; row++) {
      let from = 4 * ((top + row) * canvas.width + left);
      for (let column = 0; column < nx; column++, from += 4) volume[to++] = pixels[from];
    }
  }
  return volume;
}

class Grid {
  constructor(shape, spacing) {
    this.shape = shape;
    this.size = shape.map((n, axis) => n * spacing[axis]); // in mm
    this.spacing = spacing;
  }

  /** Where a voxel's value stands in a volume. */
  index([x, y, z]) {
    const [nx, ny] = this.shape;
    return nx - 1 - x + nx * (ny - 1 - y + ny * z);
  }

  /** How a plane through a voxel lies in a volume: its first value, the step along a row, the step to the next row. */
  walk(plane, [x, y, z]) {
    const [nx, ny, nz] = this.shape, slab = nx * ny;
    if (plane === "axial") return { columns: nx, rows: ny, start: z * slab, right: 1, down: nx };
    if (plane === "coronal") return { columns: nx, rows: nz, start: (nz - 1) * slab + (ny - 1 - y) * nx, right: 1, down: -slab };
    return { columns: ny, rows: nz, start: (nz - 1) * slab + nx - 1 - x, right: nx, down: -slab };
  }

  /** Millimetres across and down a plane's canvas. Three planes one above the other share a width, hence a scale. */
  millimetres(plane, shared) {
    const [a, b] = across(plane);
    return [shared ? Math.max(this.size[0], this.size[1]) : this.size[a], this.size[b]];
  }

  /** Where a plane's voxels lie on its canvas: pixels left of the first, and the [width, height] of one. */
  place(canvas, plane, shared) {
    const [a, b] = across(plane);
    const pixels = canvas.width / this.millimetres(plane, shared)[0];
    const scale = [this.spacing[a] * pixels, this.spacing[b] * pixels];
    return { columns: this.shape[a], rows: this.shape[b], scale, left: (canvas.width - this.shape[a] * scale[0]) / 2 };
  }

  /** The voxel under a pixel of a plane's canvas; the third coordinate stays. */
  voxelAt(canvas, plane, shared, x, y, position) {
    const [a, b] = across(plane), { columns, rows, scale, left } = this.place(canvas, plane, shared);
    const found = [...position];
    found[a] = columns - 1 - clamp(Math.floor((x - left) / scale[0]), 0, columns - 1);
    found[b] = rows - 1 - clamp(Math.floor(y / scale[1]), 0, rows - 1);
    return found;
  }
}

/** Borders of the lesion label in a plane: [column, row, column, row] of each voxel edge. */
function lesionEdges(labels, walk) {
  const inside = (row, column) =>
    row >= 0 && column >= 0 && row < walk.rows && column < walk.columns &&
    inLesion(labels[walk.start + row * walk.down + column * walk.right]);
  const found = [];
  for (let row = 0; row <= walk.rows; row++) {
    for (let column = 0; column <= walk.columns; column++) {
      const here = inside(row, column);
      if (here !== inside(row - 1, column)) found.push([column, row, column + 1, row]);
      if (here !== inside(row, column - 1)) found.push([column, row, column, row + 1]);
    }
  }
  return found;
}

// ---- colours: one 32-bit number a grey level, made once a drawing ----

function colourTable(length, colourOf) {
  const table = new Uint32Array(length), bytes = new Uint8Array(table.buffer);
  for (let i = 0; i < length; i++) bytes.set([...colourOf(i), 255], 4 * i);
  return table;
}

/** Greys of the 256 levels of a value range, black at `limits[0]` and white at `limits[1]`. */
function greyTable([low, high], [black, white]) {
  return colourTable(256, (level) => {
    const shade = clamp(Math.round((255 * (low + (level * (high - low)) / 255 - black)) / (white - black)), 0, 255);
    return [shade, shade, shade];
  });
}

/** Colours of the 511 differences of two levels, from -255. */
function errorTable([low, high], top, colours, signed) {
  return colourTable(511, (i) => errorColour(((i - 255) * (high - low)) / 255 / top, colours, signed));
}

/** The colour of an error, as a share of the colour bar. */
function errorColour(share, colours, signed) {
  const size = Math.min(Math.abs(share), 1);
  if (signed) return (share > 0 ? TOO_BRIGHT : TOO_DARK).map((part) => part * size);
  return colours.subarray(3 * Math.round(255 * size), 3 * Math.round(255 * size) + 3);
}

// ---- drawing ----

const scratch = element("canvas");

/** Draw a plane of a volume (or of its difference from `truth`) into its place on a canvas; black outside the brain. */
function drawPlane(canvas, place, walk, labels, volume, truth, table) {
  const context = canvas.getContext("2d");
  scratch.width = walk.columns;
  scratch.height = walk.rows;
  const picture = new ImageData(walk.columns, walk.rows), pixels = new Uint32Array(picture.data.buffer);
  const black = colourTable(1, () => [0, 0, 0])[0];
  for (let row = 0, to = 0; row < walk.rows; row++) {
    let from = walk.start + row * walk.down;
    for (let column = 0; column < walk.columns; column++, from += walk.right, to++) {
      if (!inBrain(labels[from])) pixels[to] = black;
      else pixels[to] = table[truth ? volume[from] - truth[from] + 255 : volume[from]];
    }
  }
  scratch.getContext("2d").putImageData(picture, 0, 0);
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(scratch, place.left, 0, walk.columns * place.scale[0], walk.rows * place.scale[1]);
}

/** Draw straight lines, each [x, y, x, y] in canvas pixels. */
function drawLines(context, lines, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width * density();
  context.beginPath();
  for (const [x0, y0, x1, y1] of lines) {
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
  }
  context.stroke();
}

/** A crosshair on a voxel; what it points at stays visible. */
function drawCross(canvas, plane, place, position) {
  const [a, b] = across(plane), gap = 7 * density();
  const x = place.left + (place.columns - 0.5 - position[a]) * place.scale[0];
  const y = (place.rows - 0.5 - position[b]) * place.scale[1];
  const lines = [[0, y, x - gap, y], [x + gap, y, canvas.width, y], [x, 0, x, y - gap], [x, y + gap, x, canvas.height]];
  drawLines(canvas.getContext("2d"), lines, CROSS, 1);
}

function drawLetters(canvas, plane) {
  const context = canvas.getContext("2d"), dense = density();
  context.font = `600 ${12 * dense}px system-ui, sans-serif`;
  context.fillStyle = "#f4f4f4";
  context.textBaseline = "top";
  for (const [side, letter] of LETTERS[plane].entries()) {
    context.textAlign = side ? "right" : "left";
    context.fillText(letter, side ? canvas.width - 4 * dense : 4 * dense, 4 * dense);
  }
}
