// Forms for what models take: each has `data()`, which throws with words for the user, and `clear()`.

import { element } from "./dom.js";
import { DigitPad } from "./pad.js";

/** A form for a model's only input, put into `place`; `onChange` is called when there is something new to ask. */
export function inputFor(model, place, onChange) {
  place.replaceChildren();
  const [input, second] = model.inputs;
  const rest = input.shape.slice(1);
  if (!second && input.datatype === "UINT8" && model.white && rest.length === 2) {
    return new DigitPad(place, input.shape, model.white, onChange);
  }
  if (!second && input.datatype === "UINT8" && model.white && rest.length === 3 && rest[2] === 3) {
    return new Picture(place, input.shape, model.white, onChange);
  }
  if (!second && input.datatype === "BYTES" && rest.every((length) => length === 1)) return new Sentence(place);
  return new NoForm(place, model);
}

class Sentence {
  constructor(place) {
    this.area = element("textarea", { id: "text", rows: "3", placeholder: "When does my new card arrive?",
      spellcheck: "false" });
    place.append(element("label", { for: "text" }, "Sentence"), this.area);
  }

  clear() {
    this.area.value = "";
  }

  data() {
    if (!this.area.value.trim()) throw new Error("Type a sentence first.");
    return [this.area.value];
  }
}

class Picture {
  constructor(place, shape, white, onChange) {
    [, this.height, this.width] = shape;
    this.white = white;
    this.onChange = onChange;
    this.ready = false;
    this.canvas = element("canvas", { width: this.width, height: this.height, role: "img",
      "aria-label": "No image yet" });
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.file = element("input", { type: "file", accept: "image/*", id: "file", class: "unseen" });
    this.hint = element("p", { class: "hint" });
    this.drop = element("label", { class: "drop", for: "file" }, this.canvas,
      element("span", {}, "Drop or paste an image, or choose one"));
    place.append(this.file, this.drop, this.hint);
    this.file.addEventListener("change", () => this.#read(this.file.files[0]));
    this.drop.addEventListener("dragover", (event) => {
      event.preventDefault();
      this.drop.classList.add("over");
    });
    this.drop.addEventListener("dragleave", () => this.drop.classList.remove("over"));
    this.drop.addEventListener("drop", (event) => {
      event.preventDefault();
      this.drop.classList.remove("over");
      this.#read(event.dataTransfer.files[0]);
    });
    place.onpaste = (event) => this.#read(event.clipboardData.files[0]);
    this.clear();
  }

  clear() {
    this.ready = false;
    this.file.value = "";
    this.hint.textContent = `Its middle is scaled to ${this.width} × ${this.height} pixels.`;
    this.context.clearRect(0, 0, this.width, this.height);
    this.canvas.setAttribute("aria-label", "No image yet");
  }

  data() {
    if (!this.ready) throw new Error("Choose an image first.");
    const pixels = this.context.getImageData(0, 0, this.width, this.height).data;
    return Array.from(pixels).filter((_, index) => index % 4 < 3)
      .map((value) => Math.round((value / 255) * this.white));
  }

  async #read(file) {
    if (!file) return;
    let image;
    try {
      image = await createImageBitmap(file);
    } catch {
      this.clear();
      this.hint.textContent = `“${file.name}” is no image that this browser can read.`;
      return;
    }
    const side = Math.min(image.width / this.width, image.height / this.height);
    const width = side * this.width, height = side * this.height;
    const { context } = this;
    context.fillStyle = "#fff"; // behind what is transparent
    context.fillRect(0, 0, this.width, this.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(image, (image.width - width) / 2, (image.height - height) / 2, width, height,
      0, 0, this.width, this.height);
    image.close();
    this.ready = true;
    this.hint.textContent = file.name;
    this.canvas.setAttribute("aria-label", `${file.name}, as the model sees it`);
    this.onChange();
  }
}

class NoForm {
  constructor(place, model) {
    const inputs = model.inputs.map((input) => `${input.name} ${input.datatype} [${input.shape.join(", ")}]`);
    place.append(element("p", { class: "hint" },
      `There is a form for digits, photographs and sentences. This model takes ${inputs.join("; ")}: `
      + `ask it with any client, at v2/models/${model.name}/infer.`));
  }

  clear() {}

  data() {
    throw new Error("There is no form for this model.");
  }
}
