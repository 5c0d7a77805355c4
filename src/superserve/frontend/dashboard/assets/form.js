// Asking a model, as any client does, and telling what came of it.

import { ask } from "./api.js";
import { element, milliseconds, short, subnetColour } from "./dom.js";
import { inputFor } from "./inputs.js";

const LEAST_MS = 1;
const SLIDER_STEPS = 100;
const TOLD = 3;

export class AskForm {
  /** `explain(requestId)` is called when somebody wants to know why. */
  constructor(explain) {
    this.explain = explain;
    this.slider = document.getElementById("slo");
    this.place = document.getElementById("ask-input");
    this.answer = document.getElementById("answer");
    this.asking = false;
    this.again = false;
    document.getElementById("ask-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    document.getElementById("ask-clear").addEventListener("click", () => {
      this.input?.clear();
      this.#forget();
    });
    this.slider.addEventListener("input", () => this.#tellDeadline());
    this.slider.addEventListener("change", () => this.asked && this.ask());
  }

  /** From now on this model is asked. */
  use(model) {
    this.model = model;
    this.#forget();
    this.input = inputFor(model, this.place, () => this.ask());
    this.slider.value = SLIDER_STEPS * this.#position(model.slo_ms);
    this.#tellDeadline();
  }

  /** Ask what is in the form; while an answer is awaited, once more when it has come. */
  async ask() {
    if (this.asking) {
      this.again = true;
      return;
    }
    this.asking = true;
    try {
      do {
        this.again = false;
        await this.#askOnce();
      } while (this.again);
    } finally {
      this.asking = false;
    }
  }

  #forget() {
    this.asked = false;
    this.answer.replaceChildren(element("p", { class: "hint" },
      "The answer comes from the best subnet that can be in time: with a shorter deadline, from a smaller one."));
  }

  async #askOnce() {
    const { model } = this;
    const began = performance.now();
    let told;
    try {
      const deadlineMs = this.#deadlineMs();
      const message = this.#message(this.input.data(), deadlineMs);
      this.asked = true;
      const { body, requestId } = await ask(`v2/models/${encodeURIComponent(model.name)}/infer`, message, 60_000);
      told = this.#told(model, body, requestId, deadlineMs, performance.now() - began);
    } catch (error) {
      told = [element("p", { class: "wrong" }, error.message)];
      if (error.requestId) told.push(this.#why(error.requestId));
    }
    if (model === this.model) this.answer.replaceChildren(...told); // else another has been chosen meanwhile
  }

  #message(data, deadlineMs) {
    const [input] = this.model.inputs;
    const shape = [1, ...input.shape.slice(1)];
    return {
      inputs: [{ name: input.name, datatype: input.datatype, shape, data }],
      parameters: { timeout: Math.round(deadlineMs * 1000) },
    };
  }

  #told(model, body, requestId, deadlineMs, roundTripMs) {
    const facts = body.parameters;
    const index = model.subnets.findIndex((subnet) => subnet.id === facts.superserve_subnet);
    const swatch = element("i", { class: "swatch" });
    swatch.style.background = subnetColour(Math.max(index, 0), model.subnets.length);
    const rows = [
      ["Subnet", element("span", {}, swatch, facts.superserve_subnet)],
      ["Its accuracy", `${short(facts.superserve_accuracy)} %`],
      ["Waited", milliseconds(facts.superserve_queue_us / 1000)],
      ["Ran", `${milliseconds(facts.superserve_infer_us / 1000)}, batch of ${facts.superserve_batch_size}`],
      ["Round trip", milliseconds(roundTripMs)],
      [`Deadline, ${milliseconds(deadlineMs)}`, facts.slo_met ? "met" : "missed"],
    ];
    const told = [this.#result(model, body.outputs[0])];
    if (facts.superserve_emulated) told.push(element("p", { class: "wrong" }, "Emulated: nothing was computed."));
    const pairs = rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
    told.push(element("dl", {}, ...pairs), this.#why(requestId));
    return told;
  }

  #result(model, output) {
    if (output.data.length !== model.labels.length) {
      return element("p", { class: "verdict" }, JSON.stringify(output.data).slice(0, 200));
    }
    const likely = softmax(output.data)
      .map((part, index) => ({ part, label: model.labels[index] }))
      .sort((a, b) => b.part - a.part).slice(0, TOLD);
    return element("div", {},
      element("p", { class: "verdict" }, words(likely[0].label)),
      element("ol", { class: "likely" }, ...likely.map(({ part, label }) => {
        const meter = element("meter", { min: "0", max: "1", value: part.toFixed(4), "aria-hidden": "true" });
        const told = `${(part * 100).toFixed(1)} %`;
        return element("li", {}, element("span", {}, words(label)), meter, element("b", {}, told));
      })));
  }

  #why(requestId) {
    const button = element("button", { type: "button", class: "quiet" }, "Why this?");
    button.addEventListener("click", () => this.explain(requestId));
    return button;
  }

  /** The slider is logarithmic: from a millisecond to four times the model's SLO. */
  #deadlineMs() {
    return LEAST_MS * (4 * this.model.slo_ms / LEAST_MS) ** (this.slider.value / SLIDER_STEPS);
  }

  #position(deadlineMs) {
    return Math.log(deadlineMs / LEAST_MS) / Math.log(4 * this.model.slo_ms / LEAST_MS);
  }

  #tellDeadline() {
    const text = milliseconds(this.#deadlineMs());
    document.getElementById("slo-text").textContent = text;
    this.slider.setAttribute("aria-valuetext", text);
  }
}

function softmax(logits) {
  const most = Math.max(...logits);
  const raised = logits.map((logit) => Math.exp(logit - most));
  const total = raised.reduce((sum, value) => sum + value, 0);
  return raised.map((value) => value / total);
}

/** `data set:some_label` as words. */
function words(label) {
  return label.split(":").at(-1).replaceAll("_", " ");
}
