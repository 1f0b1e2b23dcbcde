// A photo, scan or drawing of one digit, prepared as MNIST's digits were: data/digit.py again, function by function and
// to the last bit. A picture is { values, width, height }, row by row, in integers; a mask holds 0 and 1. What is done at
// each pixel is a plain loop, not a call: a page prepares the drawing anew at each move of the pen.

const MOST = 400; // of the longer side that is looked at, in pixels
const UNIT = 16; // of a grey level: its steps once pixels are averaged
const FULL = 4096; // of ink: what differs from the paper by all that there can be
const BEYOND = -(10 ** 6);

const over = (a, b) => Math.floor(a / b); // Python's a // b
const total = (values) => values.reduce((sum, value) => sum + value, 0);

// Uint8Array (28 x 28) of an ImageData of one digit; null where no digit is seen.
function digitToPixels(image) {
  const [grey] = planesOf(image, 1, isOpaque(image) ? 255 : paperOf(image));
  if (isPlaced(grey)) return grey.values;
  const ink = inkOf(grey);
  return ink && placed(ink);
}

// Whether a picture is already what `placed` makes, as MNIST's own images are.
function isPlaced(grey) {
  const { values, width, height } = grey;
  if (width !== WIDTH || height !== HEIGHT) return false;
  const box = boxOf(grey);
  if (box === null) return false;
  const sum = total(values);
  let [across, down] = [0, 0];
  for (let i = 0; i < SIZE; i++) {
    across += values[i] * ((i % WIDTH) - 14);
    down += values[i] * (over(i, WIDTH) - 14);
  }
  const centred = 2 * Math.abs(across) <= sum && 2 * Math.abs(down) <= sum;
  return centred && Math.max(box[2] - box[0], box[3] - box[1]) === 20;
}

function isOpaque({ data }) {
  for (let i = 3; i < data.length; i += 4) if (data[i] !== 255) return false;
  return true;
}

// White or black, 255 or 0, whichever behind the transparent parts shows what is drawn.
function paperOf({ data }) {
  let sum = 0;
  let weight = 0;
  let least = 255;
  let greatest = 0;
  for (let i = 0; i < data.length; i += 4) {
    const grey = luma(data[i], data[i + 1], data[i + 2]);
    const alpha = data[i + 3];
    weight += alpha;
    sum += alpha * grey;
    if (alpha < 128) continue;
    if (grey < least) least = grey;
    if (grey > greatest) greatest = grey;
  }
  const light = 2 * sum >= 255 * weight;
  const own = greatest - least >= 64 && 2 * weight > 255 * (data.length / 4);
  return light === own ? 255 : 0;
}

// A picture of that size, of zeros.
function blank(width, height) {
  return { values: new Int32Array(width * height), width, height };
}

// A picture with rows and columns exchanged.
function turned({ values, width, height }) {
  const result = blank(height, width);
  const to = result.values;
  for (let y = 0, from = 0; y < height; y++) {
    for (let x = 0, at = y; x < width; x++, at += height) to[at] = values[from++];
  }
  return result;
}

// A picture whose lines along an axis, 0 down the columns and 1 along the rows, are what `change` makes of them. Lines of
// one value stay as they are where that `keeps` them, for speed: most of a drawing is blank.
function along(axis, picture, change, keeps = true) {
  if (axis === 0) return turned(along(1, turned(picture), change, keeps));
  const { width, height } = picture;
  const values = picture.values.slice();
  for (let y = 0; y < height; y++) {
    const line = values.subarray(y * width, (y + 1) * width);
    let at = 0;
    if (keeps) for (const first = line[0]; at < width && line[at] === first; ) at++;
    if (at === width) continue;
    const changed = change(line);
    if (changed !== line) line.set(changed);
  }
  return { values, width, height };
}

// In UNITs: the means of square blocks, as large as brings the longer side to at most MOST pixels.
function shrunk(grey) {
  const side = Math.ceil(Math.max(grey.width, grey.height) / MOST);
  const [width, height] = [grey.width, grey.height].map((length) => Math.max(over(length, side), 1));
  const [across, down] = [Math.min(side, grey.width), Math.min(side, grey.height)];
  const means = blank(width, height);
  const [count, half] = [across * down, over(across * down, 2)];
  const from = grey.values;
  const to = means.values;
  for (let y = 0; y < height * down; y++) {
    const first = over(y, down) * width;
    for (let column = 0, at = y * grey.width; column < width; column++) {
      for (let x = 0; x < across; x++) to[first + column] += from[at++];
    }
  }
  for (let i = 0; i < to.length; i++) to[i] = over(to[i] * UNIT + half, count);
  return means;
}

// The mean over (2 radius + 1)^2 pixels, rounded down; at the edges over those that there are.
function blurred(picture, radius) {
  const sums = new Int32Array(Math.max(picture.width, picture.height) + 1);
  const mean = (line) => {
    for (let i = 0; i < line.length; i++) sums[i + 1] = sums[i] + line[i];
    for (let i = 0; i < line.length; i++) {
      const first = Math.max(i - radius, 0);
      const last = Math.min(i + radius + 1, line.length);
      line[i] = over(sums[last] - sums[first], last - first);
    }
    return line;
  };
  return along(1, along(0, picture, mean), mean);
}

// The maximum of each `length` neighbours in a line, of those that lie whole inside; changes the line. Each is that of
// the end of a block of as many and of the next one's beginning (van Herk, 1992).
const FROM_BLOCK = new Int32Array(3 * MOST);
const TO_BLOCK = new Int32Array(3 * MOST);
function greatest(line, length) {
  for (let first = 0; first < line.length; first += length) {
    const last = Math.min(first + length, line.length) - 1;
    let most = line[first];
    for (let i = first; i <= last; i++) {
      if (line[i] > most) most = line[i];
      FROM_BLOCK[i] = most;
    }
    most = line[last];
    for (let i = last; i >= first; i--) {
      if (line[i] > most) most = line[i];
      TO_BLOCK[i] = most;
    }
  }
  const size = line.length - length + 1;
  for (let i = 0; i < size; i++) {
    const ahead = FROM_BLOCK[i + length - 1];
    line[i] = TO_BLOCK[i] > ahead ? TO_BLOCK[i] : ahead;
  }
  return line.subarray(0, size);
}

// A line between `count` values of what is outside; the next call takes it back.
const PADDED = new Int32Array(3 * MOST);
function padded(line, count, outside) {
  const wide = PADDED.subarray(0, line.length + 2 * count);
  for (let i = 0; i < count; i++) wide[i] = wide[count + line.length + i] = outside;
  for (let i = 0; i < line.length; i++) wide[count + i] = line[i];
  return wide;
}

// What dark strokes are drawn on: the larger of the closings by a row and by a column of `length` pixels.
function closed(picture, length, outside) {
  const negative = (line) => {
    for (let i = 0; i < line.length; i++) line[i] = -line[i];
    return line;
  };
  // What is as outside at a line's ends stays so; and a length beyond what is between them does no more than that.
  const close = (line) => {
    let first = 0;
    let last = line.length;
    while (first < last && line[first] === outside) first++;
    while (last > first && line[last - 1] === outside) last--;
    const inner = line.subarray(first, last);
    const most = Math.min(length, inner.length + 1);
    const wide = greatest(padded(inner, most - 1, outside), most);
    inner.set(negative(greatest(negative(wide), most)));
    return line;
  };
  const keeps = outside === BEYOND || length <= Math.min(picture.width, picture.height);
  const result = along(0, picture, close, keeps);
  const across = along(1, picture, close, keeps).values;
  for (let i = 0; i < across.length; i++) if (across[i] > result.values[i]) result.values[i] = across[i];
  return result;
}

// The maximum over (2 radius + 1)^2 pixels, with 0 beyond the picture.
function dilated(picture, radius) {
  const dilate = (line) => greatest(padded(line, radius, 0), 2 * radius + 1);
  return along(1, along(0, picture, dilate), dilate);
}

// For each pixel the number of its part, from 1 in the order of their first pixels, 0 outside; and how many.
function components({ values, width, height }) {
  const labels = new Int32Array(values.length);
  let count = 0;
  for (let first = 0; first < values.length; first++) {
    if (!values[first] || labels[first]) continue;
    labels[first] = ++count;
    const todo = [first];
    while (todo.length) {
      const at = todo.pop();
      const x = at % width;
      const y = (at - x) / width;
      for (let b = Math.max(y - 1, 0); b <= Math.min(y + 1, height - 1); b++) {
        for (let a = Math.max(x - 1, 0); a <= Math.min(x + 1, width - 1); a++) {
          const near = b * width + a;
          if (!values[near] || labels[near]) continue;
          labels[near] = count;
          todo.push(near);
        }
      }
    }
  }
  return [labels, count];
}

// The parts of a mask: of each, from 0, its pixels, those at its outline, ink, greatest ink, and box; and each pixel's.
function partsOf(mask, { values: amounts }) {
  const { values, width, height } = mask;
  const [labels, count] = components(mask);
  const parts = Array.from({ length: count }, () => (
    { area: 0, outline: 0, mass: 0, peak: 0, left: width, top: height, right: -1, bottom: -1 }
  ));
  for (let y = 0, i = 0; y < height; y++) {
    const edge = y === 0 || y === height - 1;
    for (let x = 0; x < width; x++, i++) {
      if (labels[i] === 0) continue;
      const part = parts[labels[i] - 1];
      const inner = !edge && x > 0 && x < width - 1 && values[i - width] && values[i + width] && values[i - 1] && values[i + 1];
      part.area += 1;
      if (!inner) part.outline += 1;
      part.mass += amounts[i];
      if (amounts[i] > part.peak) part.peak = amounts[i];
      if (x < part.left) part.left = x;
      if (x > part.right) part.right = x;
      if (y < part.top) part.top = y;
      part.bottom = y;
    }
  }
  for (const part of parts) {
    [part.width, part.height] = [part.right - part.left + 1, part.bottom - part.top + 1];
    part.size = Math.max(part.width, part.height);
    // Of the picture's edges.
    part.touching = part.left === 0 || part.right === width - 1 || part.top === 0 || part.bottom === height - 1;
    part.across = part.width === width || part.height === height;
  }
  return { labels, parts };
}

// The paper's level, where the picture's edge shows little else; else null.
function flatBorder({ values, width, height }) {
  const edge = [];
  for (let x = 0; x < width; x++) edge.push(values[x], values[(height - 1) * width + x]);
  for (let y = 0; y < height; y++) edge.push(values[y * width], values[y * width + width - 1]);
  const middle = edge.sort((a, b) => a - b)[over(edge.length, 2)];
  let [least, most] = [values[0], values[0]];
  for (let i = 0; i < values.length; i++) {
    if (values[i] < least) least = values[i];
    if (values[i] > most) most = values[i];
  }
  const near = edge.filter((value) => Math.abs(value - middle) * 10 <= most - least);
  return near.length * 10 >= 9 * edge.length ? middle : null;
}

function negated({ values, width, height }) {
  const result = blank(width, height);
  const to = result.values;
  for (let i = 0; i < to.length; i++) to[i] = -values[i];
  return result;
}

// The digit's ink in its box, from 0 to 255, of a picture of greys; null where no digit is seen.
function inkOf(grey) {
  const values = shrunk(grey);
  const smooth = blurred(values, over(Math.max(values.width, values.height) + 100, 200));
  const border = flatBorder(smooth);
  const dark = candidate(values, smooth, border);
  const light = candidate(negated(values), negated(smooth), border === null ? null : -border);
  if (dark === null || light === null) return (dark ?? light)?.ink ?? null;
  return light.contrast > dark.contrast ? light.ink : dark.ink;
}

// The value of that rank, from 0, among ink from 0 to FULL: counted, which is faster than sorting.
function ranked(values, rank) {
  const counts = new Int32Array(FULL + 1);
  for (let i = 0; i < values.length; i++) counts[values[i]]++;
  let value = 0;
  for (let passed = counts[0]; passed <= rank; passed += counts[value]) value++;
  return value;
}

// Of what differs from the paper by `value`. A shadow dims paper and ink alike: what counts is their ratio. Light ink,
// whose values are negative, adds light.
function share(value, paper) {
  return value && over(value * FULL, (paper > 0 ? paper : 255 * UNIT) + 16 * UNIT);
}

// The shares, of the paper, by which values lie below it.
function below(paper, { values, width, height }) {
  const result = blank(width, height);
  const [to, from] = [result.values, paper.values];
  for (let i = 0; i < to.length; i++) to[i] = share(from[i] - values[i], from[i]);
  return result;
}

// How far a digit's dark ink stands out from what is around it, and that ink as `inkOf` returns it.
function candidate(values, smooth, border) {
  const { width, height } = values;
  const side = Math.max(width, height);
  let paper = closed(smooth, Math.max(over(side, 2), 3), border === null ? BEYOND : border);
  let rise = below(paper, smooth);
  const noise = ranked(rise.values, over(rise.values.length, 2));
  const least = 3 * noise + 96;
  const mask = blank(width, height);
  for (let i = 0; i < mask.values.length; i++) mask.values[i] = rise.values[i] > least ? 1 : 0;
  // Faint lines hang on to a digit only by what is far below its own ink.
  const all = partsOf(mask, rise);
  if (!all.parts.length) return null;
  for (let i = 0; i < mask.values.length; i++) {
    if (mask.values[i] && rise.values[i] * 5 <= 2 * all.parts[all.labels[i] - 1].peak) mask.values[i] = 0;
  }
  const { labels, parts } = partsOf(mask, rise);
  const chosen = digitOf(parts, side, border !== null);
  if (chosen === null) return null;
  const everywhere = blank(width, height);
  for (let i = 0; i < labels.length; i++) {
    if (labels[i] && chosen.has(parts[labels[i] - 1])) everywhere.values[i] = 1;
  }
  const [left, top, right, bottom] = boxOf(everywhere);
  const size = Math.max(right - left, bottom - top);
  const skirt = Math.ceil(size / 20);
  // From here on only what is near the digit counts.
  const far = 3 * skirt;
  const near = [left - far, top - far, right + far, bottom + far].map((at, k) =>
    Math.min(Math.max(at, 0), k % 2 ? height : width),
  );
  const mean = cut(blurred(smooth, over(side, 4)), near, 0);
  const core = cut(everywhere, near, 0);
  [values, smooth, paper, rise] = [values, smooth, paper, rise].map((picture) => cut(picture, near, 0));
  const grown = dilated(core, skirt);
  const wide = dilated(core, far);
  const ink = blurred(below(paper, values), over(size, 60));
  const levels = new Int32Array(total(core.values));
  let [seen, around, ring, contrast] = [0, 0, 0, 0];
  for (let i = 0; i < ink.values.length; i++) {
    if (ink.values[i] < 0 || !grown.values[i]) ink.values[i] = 0;
    if (core.values[i]) {
      levels[seen++] = ink.values[i];
      const deviation = share(Math.max(mean.values[i] - smooth.values[i], 0), paper.values[i]);
      contrast += Math.min(rise.values[i], deviation);
    } else if (wide.values[i] && !grown.values[i]) {
      around += rise.values[i];
      ring += 1;
    }
  }
  const level = Math.max(ranked(levels, over((levels.length - 1) * 98, 100)), 1);
  around = over(around, Math.max(ring, 1));
  contrast = over(contrast, levels.length);
  if (level < 10 * around || contrast * 10 < 3 * level) return null;
  for (let i = 0; i < ink.values.length; i++) {
    const scaled = ink.values[i] && Math.min(over(ink.values[i] * 255, level), 255);
    ink.values[i] = scaled < 26 ? 0 : scaled;
  }
  const box = boxOf(ink);
  if (box === null) return null;
  // Strokes of a thin pen grow to a ninth of the digit, nearly as wide as MNIST's.
  const penWidth = over(2 * levels.length, total([...chosen].map((part) => part.outline)));
  const grow = Math.max(over(over(size, 9) - penWidth + 1, 2), 0);
  return { contrast, ink: dilated(cut(ink, box, grow), grow) };
}

// Which parts are the digit's, a set of them; null where none is. A stroke is twice as many pixels as there are at its
// outline, divided by its length, wide.
function digitOf(parts, side, flat) {
  const free = parts.filter((part) => !(flat ? part.across : part.touching));
  const allowed = free.filter(
    ({ size, width, height, area, outline }) =>
      size * 16 >= side && size >= 5 && width <= 3 * height && 6 * area <= outline * size,
  );
  if (!allowed.length) return null;
  const chosen = new Set([allowed.reduce((best, part) => (part.mass > best.mass ? part : best))]);
  for (;;) {
    const of = (name) => Array.from(chosen, (part) => part[name]);
    const [left, top] = [Math.min(...of("left")), Math.min(...of("top"))];
    const [right, bottom] = [Math.max(...of("right")), Math.max(...of("bottom"))];
    const size = Math.max(right - left, bottom - top) + 1;
    const [area, outline, mass] = [total(of("area")), total(of("outline")), total(of("mass"))];
    const more = free.filter((part) => {
      const gapX = Math.max(part.left - right, left - part.right);
      const gapY = Math.max(part.top - bottom, top - part.bottom);
      const near = Math.max(gapX, gapY) * 5 <= size;
      const large = part.mass * 20 >= mass && part.size * 8 >= size;
      return !chosen.has(part) && near && large && part.area * outline <= 2 * part.outline * area;
    });
    if (!more.length) {
      const others = parts.filter((part) => !chosen.has(part) && !part.touching);
      return total(others.map((part) => part.mass)) <= mass ? chosen : null;
    }
    more.forEach((part) => chosen.add(part));
  }
}

// Of what is not 0: its first column and row, and those behind its last; null where there is none.
function boxOf({ values, width, height }) {
  let left = width;
  let top = height;
  let right = 0;
  let bottom = 0;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (values[i] === 0) continue;
      if (x < left) left = x;
      if (x >= right) right = x + 1;
      if (y < top) top = y;
      bottom = y + 1;
    }
  }
  return left < right ? [left, top, right, bottom] : null;
}

// The part of a picture that is in a box, in a margin of zeros.
function cut({ values, width }, [left, top, right, bottom], margin) {
  const result = blank(right - left + 2 * margin, bottom - top + 2 * margin);
  for (let y = top; y < bottom; y++) {
    const row = values.subarray(y * width + left, y * width + right);
    result.values.set(row, (y - top + margin) * result.width + margin);
  }
  return result;
}

// Uint8Array (28 x 28) of ink: scaled into 20 x 20, placed by its centre of mass.
function placed(ink) {
  const scale = 20 / Math.max(ink.width, ink.height);
  const [columns, rows] = [ink.width, ink.height].map((length) => Math.max(1, rounded(length * scale)));
  const small = resized(ink, [0, 0, ink.width, ink.height], columns, rows, LANCZOS).values;
  const middle = (at) => total(Array.from(small, (value, i) => value * at(i))) / Math.max(total(small), 1);
  const left = Math.min(Math.max(rounded(14 - middle((i) => i % columns)), 0), WIDTH - columns);
  const top = Math.min(Math.max(rounded(14 - middle((i) => over(i, columns))), 0), HEIGHT - rows);
  const result = new Uint8Array(SIZE);
  for (let y = 0; y < rows; y++) result.set(small.subarray(y * columns, (y + 1) * columns), (top + y) * WIDTH + left);
  return result;
}
