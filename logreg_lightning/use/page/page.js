// What is seen and done on the page. Classes' names are text here, never HTML.

const byId = (id) => document.getElementById(id);
const paper = byId("paper");
const ink = paper.getContext("2d", { willReadFrequently: true });
const PEN = 0.08 * paper.width; // a digit drawn 0.7 of the paper high gets strokes of 2.3 pixels of 28, MNIST's median
const STEP = paper.width / 28; // of the pen, by an arrow key
const MOST_CLASSES = 20; // shown all; of more, the ten most probable
const MOST_PIXELS = 2 ** 24; // of a picture: what a canvas holds on every phone
const INVITATION = MODEL.draws ? "Draw here" : "Choose a picture";

// What was done, the newest last: a stroke is a list of points, a picture an ImageBitmap, a clearing null. What is seen
// are the strokes since the last picture or clearing, or that picture.
const marks = [];
let stroke = null; // the one being drawn

function strokes() {
  return marks.slice(marks.findLastIndex((mark) => !Array.isArray(mark)) + 1);
}

function picture() {
  return marks.at(-1) instanceof ImageBitmap ? marks.at(-1) : null;
}

function imageData(bitmap) {
  const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (bitmap.width * bitmap.height)));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.floor(bitmap.width * scale));
  canvas.height = Math.max(1, Math.floor(bitmap.height * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function drawPaper() {
  ink.fillStyle = "white";
  ink.fillRect(0, 0, paper.width, paper.height);
  const bitmap = picture();
  if (bitmap) {
    const scale = Math.min(paper.width / bitmap.width, paper.height / bitmap.height);
    const [width, height] = [bitmap.width * scale, bitmap.height * scale];
    ink.drawImage(bitmap, (paper.width - width) / 2, (paper.height - height) / 2, width, height);
  }
  ink.lineWidth = PEN;
  ink.lineCap = ink.lineJoin = "round";
  for (const points of strokes()) {
    ink.beginPath();
    ink.moveTo(...points[0]);
    for (const [x, y] of points) ink.lineTo(x + 0.01, y); // a dot has a length too
    ink.stroke();
  }
}

// After every change; `settled` is false in the middle of a stroke.
function update(settled = true) {
  drawPaper();
  const bitmap = picture();
  const drawn = strokes().length > 0;
  paper.classList.toggle("picture", bitmap !== null);
  byId("undo").disabled = marks.length === 0;
  byId("clear").disabled = !bitmap && !drawn;
  byId("invitation").textContent = bitmap || drawn ? "" : INVITATION;
  let pixels = null;
  if (bitmap) pixels = logreg.prepare(imageData(bitmap));
  else if (drawn) pixels = logreg.prepare(ink.getImageData(0, 0, paper.width, paper.height));
  show(pixels);
  if (pixels === null) say(settled && (bitmap || drawn) ? `${MODEL.no_digit}.` : "");
  else if (settled) say(`Predicted class: ${byId("answer").textContent}`, true);
}

// In words: for everybody, or for screen readers alone.
function say(sentence, unseen = false) {
  byId("message").textContent = sentence;
  byId("message").classList.toggle("unseen", unseen);
}

function percent(share) {
  return `${(100 * share).toFixed(1)}%`;
}

function element(kind, parent, className = "") {
  const made = document.createElement(kind);
  made.className = className;
  parent.append(made);
  return made;
}

// A row of the bars and a weight image for each class that is shown; `k` says which.
const rows = Array.from({ length: MODEL.classes.length > MOST_CLASSES ? 10 : MODEL.classes.length }, () => {
  const row = element("div", byId("bars"), "row");
  const name = element("span", row, "name");
  const meter = element("div", row, "meter");
  meter.setAttribute("role", "meter");
  meter.setAttribute("aria-valuemin", "0");
  meter.setAttribute("aria-valuemax", "1");
  const bar = element("i", meter);
  const share = element("span", row, "share");
  const tile = element("figure", byId("tiles"));
  const weights = element("canvas", tile);
  weights.setAttribute("role", "img");
  return { k: null, row, name, meter, bar, share, tile, weights, caption: element("figcaption", tile) };
});

const style = getComputedStyle(document.documentElement);
const [FOR, AGAINST] = ["--for", "--against"].map((name) => style.getPropertyValue(name).split(",").map(Number));

// Values, one a pixel, in red above 0 and blue below, as strong as they are large; `limit` has the full colour.
function paintSigned(canvas, values, limit) {
  paint(canvas, (i) => {
    const strength = Math.min(1, Math.abs(values[i]) / (limit || 1));
    return [...(values[i] > 0 ? FOR : AGAINST), 255 * strength];
  });
}

function paint(canvas, colour) {
  [canvas.width, canvas.height] = [WIDTH, HEIGHT];
  const image = new ImageData(WIDTH, HEIGHT);
  for (let i = 0; i < AREA; i++) image.data.set(colour(i), 4 * i);
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(image, 0, 0);
}

// A class's weights, one a pixel: of colours their mean.
function weightsOf(k) {
  return Array.from({ length: AREA }, (_, i) => {
    let sum = 0;
    for (let j = i; j < SIZE; j += AREA) sum += WEIGHT[k * SIZE + j];
    return sum / CHANNELS;
  });
}

// What of a row does not change while one draws.
function assign(one, k) {
  one.k = k;
  one.name.textContent = one.caption.textContent = MODEL.classes[k];
  one.meter.setAttribute("aria-label", MODEL.classes[k]);
  paintSigned(one.weights, weightsOf(k), MODEL.limit);
}

function show(pixels) {
  const probabilities = pixels && logreg.predict(pixels);
  const ranking = pixels ? logitsOf(pixels).ranking : [...MODEL.classes.keys()];
  const shown = rows.length < MODEL.classes.length ? ranking.slice(0, rows.length) : [...MODEL.classes.keys()];
  rows.forEach((one, i) => {
    const k = shown[i];
    if (one.k !== k) assign(one, k);
    const { row, meter, bar, share, tile, weights } = one;
    const wins = pixels !== null && k === ranking[0];
    const probability = pixels ? probabilities[k] : 0;
    row.classList.toggle("winner", wins);
    tile.classList.toggle("winner", wins);
    bar.style.width = `${100 * probability}%`;
    share.textContent = pixels ? percent(probability) : "";
    meter.setAttribute("aria-valuenow", String(probability));
    meter.setAttribute("aria-valuetext", pixels ? percent(probability) : "no prediction");
    weights.setAttribute("aria-label", `Weights of ${MODEL.classes[k]}${wins ? ", the predicted class" : ""}`);
  });
  explain(pixels, ranking, probabilities);
}

function explain(pixels, [winner, second], probabilities) {
  const answer = byId("answer");
  answer.replaceChildren();
  paint(byId("seen"), (i) => {
    const value = (channel) => (pixels ? pixels[(channel % CHANNELS) * AREA + i] : 0);
    return [value(0), value(1), value(2), pixels ? 255 : 0];
  });
  byId("why").classList.toggle("empty", pixels === null);
  if (pixels === null) {
    paint(byId("evidence"), () => [0, 0, 0, 0]);
    byId("contest").textContent = "Evidence";
    byId("sum").textContent = byId("evidence-low").textContent = byId("evidence-high").textContent = "";
    return;
  }
  answer.className = MODEL.classes[winner].length > 3 ? "words" : "";
  element("strong", answer).textContent = MODEL.classes[winner];
  answer.append(" ");
  element("span", answer).textContent = percent(probabilities[winner]);
  const evidence = logreg.evidence(pixels);
  const limit = evidence.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  paintSigned(byId("evidence"), evidence, limit);
  const contest = `Evidence for ${MODEL.classes[winner]} against ${MODEL.classes[second]}`;
  byId("contest").textContent = contest;
  byId("evidence").setAttribute("aria-label", contest);
  byId("evidence-low").textContent = signed(-limit);
  byId("evidence-high").textContent = signed(limit);
  const total = evidence.reduce((sum, value) => sum + value, 0);
  const bias = MODEL.bias[winner] - MODEL.bias[second];
  byId("sum").textContent =
    `Pixels ${signed(total - bias, 3)}, bias ${signed(bias, 3)}: together ${signed(total, 3)}. ` +
    `${MODEL.classes[winner]} is ${times(Math.exp(total))} as probable as ${MODEL.classes[second]}.`;
}

function signed(value, precision = 2) {
  const digits = Math.abs(value).toPrecision(precision);
  const text = Number(digits) < 1000 && Number(digits) >= 0.001 ? String(Number(digits)) : Number(digits).toExponential();
  return value < 0 ? `−${text}` : `+${text}`;
}

function times(ratio) {
  if (ratio < 1.05) return "about";
  if (ratio < 10) return `${ratio.toFixed(1)} times`;
  return ratio < 1000 ? `${Math.round(ratio)} times` : "more than 1,000 times";
}

// The pen: a mouse, a finger or a stylus, or the keyboard.
function begin(point) {
  stroke = [point];
  marks.push(stroke);
  update(false);
}

function end() {
  if (stroke === null) return;
  stroke = null;
  update();
}

function pointOf(event) {
  const box = paper.getBoundingClientRect();
  const scale = paper.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}

function followPointer() {
  let pointer = null;
  paper.addEventListener("pointerdown", (event) => {
    if (pointer !== null || event.button !== 0) return;
    pointer = event.pointerId;
    if (event.isTrusted) paper.setPointerCapture(pointer); // one that a script made up cannot be captured
    penDown(false);
    begin(pointOf(event));
  });
  paper.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer || stroke === null) return; // it may have been undone meanwhile
    const passed = event.getCoalescedEvents?.() ?? [];
    stroke.push(...(passed.length ? passed : [event]).map(pointOf));
    update(false);
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    paper.addEventListener(kind, (event) => {
      if (event.pointerId !== pointer) return;
      pointer = null;
      end();
    });
  }
}

const pen = [paper.width / 2, paper.height / 4]; // of the keyboard

function penDown(down) {
  if (down) begin([...pen]);
  else end();
  byId("pen").classList.toggle("down", down);
}

function followKeys() {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const place = () => {
    byId("pen").style.left = `${(100 * pen[0]) / paper.width}%`;
    byId("pen").style.top = `${(100 * pen[1]) / paper.height}%`;
  };
  place();
  byId("pen").hidden = byId("keys").hidden = false;
  paper.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves) {
      moves[event.key].forEach((move, axis) => {
        pen[axis] = Math.min(Math.max(pen[axis] + move * STEP, 0), paper.width);
      });
      place();
      if (stroke !== null) {
        stroke.push([...pen]);
        update(false);
      }
    } else if (event.key === " ") {
      if (!event.repeat) penDown(stroke === null);
    } else return;
    event.preventDefault();
  });
  paper.addEventListener("blur", () => penDown(false));
}

// Pictures.
async function take(file) {
  if (!file) return;
  try {
    // As PIL reads them: upright, colours as they are in the file.
    const deep = await logreg.deepPng(new Uint8Array(await file.arrayBuffer()));
    const options = { imageOrientation: "from-image", colorSpaceConversion: "none" };
    const bitmap = await createImageBitmap(deep ?? file, deep ? {} : options);
    penDown(false);
    marks.push(bitmap);
    update();
  } catch (error) {
    const old = error instanceof ReferenceError; // it has no DecompressionStream
    say(old ? "This browser cannot read 16 bits a pixel; use a newer one." : `${file.name} cannot be read as a picture.`);
  }
}

function followFiles() {
  for (const input of [byId("file"), byId("camera")]) {
    input.addEventListener("change", async () => {
      await take(input.files[0]);
      input.value = ""; // the same picture may be chosen again
    });
  }
  const dropping = (on) => (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", on);
  };
  document.addEventListener("dragover", dropping(true));
  document.addEventListener("dragleave", dropping(false));
  document.addEventListener("drop", (event) => {
    dropping(false)(event);
    take(event.dataTransfer.files[0]);
  });
}

function undo() {
  penDown(false);
  marks.pop();
  update();
}

byId("undo").addEventListener("click", undo);
byId("clear").addEventListener("click", () => {
  penDown(false);
  marks.push(null);
  update();
});
document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && marks.length) {
    event.preventDefault();
    undo();
  }
});

byId("weight-low").textContent = signed(-MODEL.limit);
byId("weight-high").textContent = signed(MODEL.limit);
if (MODEL.draws) {
  paper.setAttribute("role", "application");
  paper.setAttribute("aria-label", "Paper to draw a digit on");
  paper.setAttribute("aria-describedby", "keys");
  paper.tabIndex = 0;
  paper.classList.add("drawable");
  followPointer();
  followKeys();
} else {
  paper.setAttribute("role", "img");
  paper.setAttribute("aria-label", "The picture");
}
followFiles();
update();
