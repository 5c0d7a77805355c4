// Making elements, and words for numbers.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; a child that is null is left out, text is only ever text. */
export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function shape(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** A number in three digits or so. */
export function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toFixed(size < 1e7 ? 2 : 1)}M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(size < 1e5 ? 1 : 0)}k`;
  if (size >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return value.toFixed(size < 10 ? 2 : 1);
}

/** A size of memory. */
export function bytes(count) {
  if (count < 1e6) return count < 1e3 ? `${count} B` : `${Math.round(count / 1e3)} kB`;
  return count < 1e9 ? `${(count / 1e6).toFixed(1)} MB` : `${(count / 1e9).toFixed(1)} GB`;
}

export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  return value >= 1000 ? `${short(value / 1000)} s` : `${short(value)} ms`;
}

export function percent(part) {
  if (part === null || part === undefined) return "–";
  // Never 100 % unless it is: three nines must not look like all.
  const value = part * 100;
  return `${value === 100 ? "100" : (Math.floor(value * 100) / 100).toFixed(value >= 99 ? 2 : 1)} %`;
}

export function ago(atMs, nowMs) {
  const seconds = Math.max(0, Math.round((nowMs - atMs) / 1000));
  if (seconds < 2) return "now";
  return seconds < 120 ? `${seconds} s ago` : `${Math.round(seconds / 60)} min ago`;
}

/** The colour of a subnet: from orange, the least accurate of `count`, to blue. */
export function subnetColour(index, count) {
  const part = count > 1 ? index / (count - 1) : 1;
  const hue = (420 - 165 * part) % 360;
  return `oklch(${(0.78 - 0.22 * part).toFixed(3)} ${(0.15 + 0.03 * part).toFixed(3)} ${hue.toFixed(1)})`;
}
