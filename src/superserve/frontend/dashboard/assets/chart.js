// Charts over time as SVG. All of them share a cursor: what is pointed at in one is told by all.

import { element, shape } from "./dom.js";

const PAD = { top: 6, bottom: 4 };

/** A title, the present value, and lines over the last seconds. */
export class Chart {
  /**
   * @param {HTMLElement} figure where it goes.
   * @param {object} what
   *   `title`; `lines`: `{label, of(second), shaded}`, drawn in the order of CSS classes line-0, line-1;
   *   `tell(second)`: the value in words; `note(second)`: a smaller line below, or none; `bounds(values)`: [low, high];
   *   `axis(value)`: words for a bound; `reference()`: a value to draw a dashed line at, or null.
   * @param {(seconds: number | null) => void} onCursor told how many seconds before now are pointed at.
   */
  constructor(figure, what, onCursor) {
    this.what = what;
    this.value = element("output", { class: "value" });
    this.note = element("p", { class: "note" });
    this.svg = shape("svg", { role: "img", tabindex: "0" });
    this.low = element("span", { class: "axis low" });
    this.high = element("span", { class: "axis high" });
    const legend = element("ul", { class: "legend", "aria-hidden": "true" });
    if (what.lines.length > 1) {
      what.lines.forEach((line, index) =>
        legend.append(element("li", { class: `line-${index}` }, element("i"), line.label)));
    }
    figure.append(
      element("figcaption", {}, element("h2", {}, what.title), legend),
      this.value, this.note,
      element("div", { class: "plot" }, this.svg, this.high, this.low),
    );
    pointTo(this.svg, () => this.span, onCursor);
  }

  /** `seconds`: the oldest first, null where nothing is known; as many as are shown. `cursor`: an index, or null. */
  draw(seconds, cursor) {
    const { what, svg } = this;
    this.span = seconds.length;
    const shown = seconds[cursor ?? seconds.length - 1] ?? null;
    this.value.textContent = shown ? what.tell(shown) : "–";
    this.note.textContent = shown && what.note ? what.note(shown) : "";
    svg.setAttribute("aria-label", `${what.title}: ${this.value.textContent}. ${this.note.textContent}`);
    const width = svg.clientWidth || 1, height = svg.clientHeight || 1;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const series = what.lines.map((line) => seconds.map((second) => (second ? line.of(second) : null)));
    const [low, high] = what.bounds(series.flat().filter((value) => value !== null));
    const x = (index) => ((index + 0.5) / seconds.length) * width;
    const y = (value) => height - PAD.bottom - ((value - low) / (high - low)) * (height - PAD.top - PAD.bottom);
    const base = y(Math.max(low, 0));
    const parts = [shape("line", { class: "base", x1: 0, x2: width, y1: base, y2: base })];
    const reference = what.reference?.() ?? null;
    if (reference !== null && reference > low && reference <= high) {
      parts.push(shape("line", { class: "reference", x1: 0, x2: width, y1: y(reference), y2: y(reference) }));
    }
    series.forEach((values, index) => {
      const runs = runsOf(values).map((run) => run.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`));
      if (what.lines[index].shaded) {
        const areas = runs.map((run) => `M${run[0].split(",")[0]},${base}L${run.join("L")}V${base}Z`);
        parts.push(shape("path", { class: `area line-${index}`, d: areas.join("") }));
      }
      // A lone second would have no length: it gets a dot.
      const d = runs.map((run) => `M${run.join("L")}${run.length === 1 ? "h0.01" : ""}`).join("");
      parts.push(shape("path", { class: `line line-${index}`, d }));
    });
    if (cursor !== null) {
      parts.push(shape("line", { class: "cursor", x1: x(cursor), x2: x(cursor), y1: 0, y2: height }));
    }
    svg.replaceChildren(...parts);
    this.low.textContent = what.axis(low);
    this.high.textContent = what.axis(high);
  }
}

/** Shares of several things in each second, stacked: a band. */
export class Band {
  /** `things`: `{label, detail, colour}`, the lowest first; `of(second)`: an amount of each. */
  constructor(figure, title, onCursor) {
    this.title = title;
    this.value = element("output", { class: "value" });
    this.note = element("p", { class: "note" });
    this.svg = shape("svg", { role: "img", tabindex: "0", class: "band" });
    this.legend = element("ul", { class: "legend shares" });
    figure.append(
      element("figcaption", {}, element("h2", {}, title)), this.value, this.note,
      element("div", { class: "plot" }, this.svg), this.legend,
    );
    pointTo(this.svg, () => this.span, onCursor);
  }

  /** `tell(amounts)`: value and note in words. */
  draw(things, seconds, of, cursor, tell) {
    const { svg } = this;
    this.span = seconds.length;
    const width = svg.clientWidth || 1, height = svg.clientHeight || 1;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const columns = seconds.map((second) => (second ? shares(of(second)) : null));
    const step = width / seconds.length;
    const paths = things.map((thing, index) => {
      let d = "";
      columns.forEach((column, at) => {
        if (!column || !column.parts[index]) return;
        const top = (1 - column.upto[index]) * height;
        d += `M${(at * step).toFixed(2)},${top.toFixed(2)}h${(step + 0.1).toFixed(2)}`
          + `v${(column.parts[index] * height).toFixed(2)}h${(-step - 0.1).toFixed(2)}Z`;
      });
      return shape("path", { d, fill: thing.colour });
    });
    if (cursor !== null) {
      const at = (cursor + 0.5) * step;
      paths.push(shape("line", { class: "cursor", x1: at, x2: at, y1: 0, y2: height }));
    }
    svg.replaceChildren(...paths);
    const shown = seconds[cursor ?? seconds.length - 1] ?? null;
    const amounts = shown ? of(shown) : things.map(() => 0);
    const [value, note] = tell(amounts);
    this.value.textContent = value;
    this.note.textContent = note;
    svg.setAttribute("aria-label", `${this.title}: ${value}. ${note}`);
    this.#drawLegend(things, shares(amounts));
  }

  #drawLegend(things, now) {
    if (this.legend.children.length !== things.length || this.things !== things) {
      this.things = things;
      this.legend.replaceChildren(...things.map((thing) => {
        const swatch = element("i");
        swatch.style.background = thing.colour;
        return element("li", { title: thing.label }, swatch, element("b", {}, thing.detail), element("span"));
      }));
    }
    things.forEach((_, index) => {
      const part = now ? now.parts[index] : 0;
      const item = this.legend.children[index];
      item.classList.toggle("unused", !part);
      item.lastChild.textContent = part ? `${Math.max(1, Math.round(part * 100))} %` : "";
    });
  }
}

function shares(amounts) {
  const total = amounts.reduce((sum, amount) => sum + amount, 0);
  if (!total) return null;
  let sum = 0;
  const parts = amounts.map((amount) => amount / total);
  return { parts, upto: parts.map((part) => (sum += part)) };
}

/** Stretches without gaps, as [index, value]. */
function runsOf(values) {
  const runs = [];
  values.forEach((value, index) => {
    if (value === null) return;
    if (index && values[index - 1] !== null) runs.at(-1).push([index, value]);
    else runs.push([[index, value]]);
  });
  return runs;
}

/** The pointer and the arrow keys move the cursor. */
function pointTo(svg, span, onCursor) {
  let back = null; // seconds before now
  const move = (seconds) => {
    back = seconds === null ? null : Math.min(Math.max(seconds, 0), span() - 1);
    onCursor(back);
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    move(span() - 1 - Math.floor(((event.clientX - box.left) / box.width) * span()));
  });
  svg.addEventListener("pointerleave", () => move(null));
  svg.addEventListener("blur", () => move(null));
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: 1, ArrowRight: -1, PageUp: 10, PageDown: -10 }[event.key];
    if (event.key === "Escape") move(null);
    else if (by) move((back ?? 0) + by);
    else return;
    event.preventDefault();
  });
}

/** The next number above of the form 1, 2 or 5 times a power of ten. */
export function nice(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((step) => step * power >= value * 0.9999);
}
