// A pad to draw a digit on, and what a model trained on the UCI digits is to see of it.

import { element } from "./dom.js";

const SIZE = 256;
const STROKE = 36;
/** The data set's images are means over blocks of 4x4 binary pixels. */
const BLOCK = 4;

/** Input for `[-1, height, width]` pixels from 0 to `white`. */
export class DigitPad {
  constructor(place, shape, white, onChange) {
    [, this.height, this.width] = shape;
    this.white = white;
    this.onChange = onChange;
    this.empty = true;
    this.canvas = element("canvas", { width: SIZE, height: SIZE, class: "pad", tabindex: "0", role: "img",
      "aria-label": "Drawing pad, empty. Draw a digit, or press one of the keys 0 to 9." });
    this.ink = this.canvas.getContext("2d", { willReadFrequently: true });
    this.seen = element("canvas", { width: this.width, height: this.height, class: "seen", role: "img",
      "aria-label": "What the model sees" });
    place.append(
      element("div", { class: "pads" }, this.canvas, this.seen),
      element("p", { class: "hint" }, "Draw a digit, or press a key from 0 to 9 on the pad."),
    );
    this.#listen();
    this.clear();
  }

  clear() {
    this.ink.fillStyle = "#000";
    this.ink.fillRect(0, 0, SIZE, SIZE);
    this.#changed("empty");
    this.empty = true;
  }

  /** The tensor's data; throws if nothing has been drawn. */
  data() {
    if (this.empty) throw new Error("Draw a digit first.");
    return this.#scaled();
  }

  #listen() {
    const { canvas, ink } = this;
    let drawing = false;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * SIZE, ((event.clientY - box.top) / box.height) * SIZE];
    };
    canvas.addEventListener("pointerdown", (event) => {
      drawing = true;
      canvas.setPointerCapture(event.pointerId);
      Object.assign(ink, { strokeStyle: "#fff", lineWidth: STROKE, lineCap: "round", lineJoin: "round" });
      ink.beginPath();
      ink.moveTo(...at(event));
      ink.lineTo(...at(event));
      ink.stroke();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!drawing) return;
      ink.lineTo(...at(event));
      ink.stroke();
    });
    const lifted = () => {
      if (!drawing) return;
      drawing = false;
      this.#drawn("a drawing");
    };
    canvas.addEventListener("pointerup", lifted);
    canvas.addEventListener("pointercancel", lifted);
    canvas.addEventListener("keydown", (event) => {
      if (!/^[0-9]$/.test(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
      this.clear();
      Object.assign(ink, { fillStyle: "#fff", font: "bold 250px sans-serif", textAlign: "center",
        textBaseline: "middle" });
      ink.fillText(event.key, SIZE / 2, SIZE / 2 + 10);
      this.#drawn(`a printed ${event.key}`);
    });
  }

  #drawn(what) {
    this.empty = false;
    this.#changed(what);
    this.onChange();
  }

  #changed(what) {
    this.canvas.setAttribute("aria-label",
      `Drawing pad, ${what}. Draw a digit, or press one of the keys 0 to 9.`);
    const shown = this.seen.getContext("2d");
    const image = shown.createImageData(this.width, this.height);
    this.#scaled().forEach((value, index) => {
      image.data.fill((value / this.white) * 255, index * 4, index * 4 + 3);
      image.data[index * 4 + 3] = 255;
    });
    shown.putImageData(image, 0, 0);
  }

  /** What is drawn, as large as it may be and in the middle, in means over blocks. */
  #scaled() {
    const box = inkBox(this.ink.getImageData(0, 0, SIZE, SIZE).data);
    const width = this.width * BLOCK, height = this.height * BLOCK;
    if (box === null) return new Array(this.width * this.height).fill(0);
    const fine = new OffscreenCanvas(width, height).getContext("2d");
    fine.fillRect(0, 0, width, height);
    fine.imageSmoothingQuality = "high";
    const scale = Math.min(width / box.width, height / box.height);
    const drawn = [box.width * scale, box.height * scale];
    fine.drawImage(this.canvas, box.left, box.top, box.width, box.height,
      (width - drawn[0]) / 2, (height - drawn[1]) / 2, ...drawn);
    const pixels = fine.getImageData(0, 0, width, height).data;
    const sums = new Array(this.width * this.height).fill(0);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        sums[Math.floor(y / BLOCK) * this.width + Math.floor(x / BLOCK)] += pixels[(y * width + x) * 4] / 255;
      }
    }
    return sums.map((sum) => Math.round((sum / BLOCK ** 2) * this.white));
  }
}

function inkBox(pixels) {
  let left = SIZE, top = SIZE, right = -1, bottom = -1;
  for (let y = 0; y < SIZE; y++) {
    for (let x = 0; x < SIZE; x++) {
      if (pixels[(y * SIZE + x) * 4] < 64) continue;
      left = Math.min(left, x); right = Math.max(right, x);
      top = Math.min(top, y); bottom = Math.max(bottom, y);
    }
  }
  return right < 0 ? null : { left, top, width: right - left + 1, height: bottom - top + 1 };
}
