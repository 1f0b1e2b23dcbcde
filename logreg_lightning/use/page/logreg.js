"use strict";
// The model in numbers: what data/pictures.py, PIL and model.py do, step for step. Nothing here touches the page.

const MODEL = JSON.parse(document.getElementById("model").textContent);
const [CHANNELS, HEIGHT, WIDTH] = MODEL.shape;
const AREA = HEIGHT * WIDTH;
const SIZE = CHANNELS * AREA;
// Weights as they act on values from 0 to 1, float32, class after class, each channel by channel, row by row.
const WEIGHT = new Float32Array(Uint8Array.from(atob(MODEL.weight), (letter) => letter.charCodeAt(0)).buffer);

// Resampling as PIL does it (Pillow's src/libImaging/Resample.c): a filter as wide as the picture shrinks, its
// coefficients in 22 bits, each direction rounded to uint8.
const BITS = 22;
const LANCZOS = {
  support: 3,
  at(x) {
    const sinc = (y) => (y === 0 ? 1 : Math.sin(y * Math.PI) / (y * Math.PI));
    return Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0;
  },
};
const BICUBIC = {
  support: 2,
  at(x) {
    x = Math.abs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
  },
};

// The part of each row, or of each column, from `begin` to `end` as `size` values.
function resampled({ values, width, height }, rows, begin, end, size, filter) {
  const [length, step, outStep] = rows ? [width, 1, 1] : [height, width, width]; // along a row, or a column
  const [lines, jump, outJump] = rows ? [height, width, size] : [width, 1, 1]; // from one to the next
  const scale = (end - begin) / size;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  const result = new Uint8ClampedArray(lines * size);
  for (let i = 0; i < size; i++) {
    const centre = begin + (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support + 0.5), length);
    const shares = [];
    for (let j = first; j < last; j++) shares.push(filter.at((j - centre + 0.5) / stretch));
    const total = shares.reduce((sum, share) => sum + share, 0);
    const factors = shares.map((share) => {
      const scaled = (share / total) * 2 ** BITS;
      return Math.trunc(scaled + (scaled < 0 ? -0.5 : 0.5));
    });
    for (let line = 0; line < lines; line++) {
      let sum = 2 ** (BITS - 1);
      for (let j = 0; j < factors.length; j++) sum += values[line * jump + (first + j) * step] * factors[j];
      result[line * outJump + i * outStep] = sum >> BITS;
    }
  }
  return rows ? { values: result, width: size, height } : { values: result, width, height: size };
}

function resized(plane, [left, top, right, bottom], width, height, filter) {
  const across = (from) => resampled(from, true, left, right, width, filter);
  const down = (from) => resampled(from, false, top, bottom, height, filter);
  // Each order rounds in its own way; Pillow 13 begins with the columns where far more rows than columns are lost.
  const columnsFirst = plane.height - height > 2 * Math.max(plane.width - width, 0);
  return columnsFirst ? across(down(plane)) : down(across(plane));
}

// As Pillow makes colours grey.
function luma(red, green, blue) {
  return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16;
}

// The planes of an ImageData, transparent parts on white or on another grey: [grey], or [red, green, blue].
function planesOf({ data, width, height }, channels, paper = 255) {
  const planes = Array.from({ length: channels }, () => ({ values: new Uint8Array(width * height), width, height }));
  const onPaper = (value, alpha) => (alpha === 255 ? value : Math.round((value * alpha + paper * (255 - alpha)) / 255));
  for (let i = 0; i < width * height; i++) {
    const alpha = data[4 * i + 3];
    const red = onPaper(data[4 * i], alpha);
    const green = onPaper(data[4 * i + 1], alpha);
    const blue = onPaper(data[4 * i + 2], alpha);
    if (channels === 1) {
      planes[0].values[i] = luma(red, green, blue);
    } else {
      planes[0].values[i] = red;
      planes[1].values[i] = green;
      planes[2].values[i] = blue;
    }
  }
  return planes;
}

// To the nearest integer; halves to the even one, as Python does.
function rounded(x) {
  const low = Math.floor(x);
  if (x - low === 0.5) return low + (low % 2 === 0 ? 0 : 1);
  return Math.round(x);
}

// As pictures.to_pixels, with PIL's ImageOps.fit; what is more than twice as long as the shape is squeezed into it.
function fitted(image) {
  const ratio = image.width / image.height;
  const wanted = WIDTH / HEIGHT;
  const length = (image.width * HEIGHT) / (image.height * WIDTH);
  const whole = Math.max(length, 1 / length) > 2;
  const width = !whole && ratio > wanted ? wanted * image.height : image.width;
  const height = !whole && ratio < wanted ? image.width / wanted : image.height;
  const [left, top] = [(image.width - width) / 2, (image.height - height) / 2];
  const box = [left, top, left + width, top + height];
  const result = new Uint8Array(SIZE);
  planesOf(image, CHANNELS).forEach((plane, channel) => {
    result.set(resized(plane, box, WIDTH, HEIGHT, BICUBIC).values, channel * AREA);
  });
  return result;
}

// The ImageData of a file's bytes if that is a PNG of greys of 16 bits, as pictures.eight_bits makes it; a browser would
// keep the upper eight of its bits. Null for any other file (PNG specification, 3rd edition, 9 to 11).
async function deepPng(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const signature = [0x89504e47, 0x0d0a1a0a, 13, 0x49484452];
  if (bytes.length < 33 || signature.some((word, i) => view.getUint32(4 * i) !== word)) return null;
  if (bytes[24] !== 16 || bytes[25] !== 0) return null;
  const [width, height, interlaced] = [view.getUint32(16), view.getUint32(20), bytes[28] === 1];
  const parts = [];
  for (let at = 33; at + 12 <= bytes.length; at += 12 + view.getUint32(at)) {
    if (view.getUint32(at + 4) === 0x49444154) parts.push(bytes.subarray(at + 8, at + 8 + view.getUint32(at)));
  }
  const inflated = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const data = new Uint8Array(await new Response(inflated).arrayBuffer());
  const [low, high] = MODEL.range ?? [0, 65535];
  const scale = 255 / (high - low);
  const image = new ImageData(width, height);
  image.data.fill(255);
  // Of each pass the first column and row, and the distance to the next.
  const seven = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];
  let at = 0;
  for (const [left, top, right, down] of interlaced ? seven : [[0, 0, 1, 1]]) {
    const length = 2 * Math.ceil((width - left) / right);
    if (length <= 0) continue;
    let above = new Uint8Array(length);
    for (let y = top; y < height; y += down) {
      const filter = data[at];
      const row = data.subarray(at + 1, at + 1 + length);
      if (row.length < length) throw new RangeError("the file is cut");
      at += 1 + length;
      for (let i = 0; i < length; i++) {
        const [a, b, c] = [i > 1 ? row[i - 2] : 0, above[i], i > 1 ? above[i - 2] : 0];
        const [pa, pb, pc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
        row[i] += [0, a, b, (a + b) >> 1, pa <= pb && pa <= pc ? a : pb <= pc ? b : c][filter];
      }
      for (let i = 0, x = left; i < length; i += 2, x += right) {
        const value = Math.min(Math.max(256 * row[i] + row[i + 1], low), high);
        image.data.fill(rounded((value - low) * scale), 4 * (y * width + x), 4 * (y * width + x) + 3);
      }
      above = row;
    }
  }
  return image;
}

// Of pixels, their logits, and the classes in the order of their logits.
function logitsOf(pixels) {
  if (!(pixels instanceof Uint8Array) || pixels.length !== SIZE) {
    throw new TypeError(`pixels must be a Uint8Array of ${CHANNELS} x ${HEIGHT} x ${WIDTH} values`);
  }
  const logits = MODEL.bias.map((bias, k) => {
    let sum = 0;
    for (let i = 0; i < SIZE; i++) sum += WEIGHT[k * SIZE + i] * pixels[i];
    return bias + sum / 255;
  });
  const ranking = [...logits.keys()].sort((a, b) => logits[b] - logits[a]);
  return { logits, ranking };
}

globalThis.logreg = Object.freeze({
  // A promise of the ImageData of a PNG of 16 bits, a Uint8Array, scaled as in training; of null for any other file.
  deepPng,

  // Uint8Array (channels x height x width) of an ImageData, as predict.py prepares a picture; with --digit where the model
  // takes drawings, and null where no digit is seen.
  prepare(image) {
    return MODEL.draws ? digitToPixels(image) : fitted(image);
  },

  // Float32Array, the probability of each class.
  predict(pixels) {
    const { logits, ranking } = logitsOf(pixels);
    const odds = logits.map((logit) => Math.exp(logit - logits[ranking[0]]));
    const total = odds.reduce((sum, one) => sum + one, 0);
    return Float32Array.from(odds, (one) => one / total);
  },

  // Float32Array, one a pixel: what each adds to the difference of the winner's logit and the runner-up's. The bias is
  // shared out equally, so that they add up to that difference.
  evidence(pixels) {
    const [winner, second] = logitsOf(pixels).ranking;
    const result = new Float32Array(AREA);
    for (let i = 0; i < AREA; i++) {
      let sum = 0;
      for (let j = i; j < SIZE; j += AREA) sum += (WEIGHT[winner * SIZE + j] - WEIGHT[second * SIZE + j]) * pixels[j];
      result[i] = sum / 255 + (MODEL.bias[winner] - MODEL.bias[second]) / AREA;
    }
    return result;
  },
});
