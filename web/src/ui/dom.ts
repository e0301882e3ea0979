// Small helpers over the DOM, so that the rest of the page reads as what it does.

/** The element of the page's template with this id. */
export function byId<T extends Element>(id: string, type: abstract new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no ${type.name} #${id}`);
  return found;
}

type Attributes = Record<string, string | number | boolean | undefined>;

/** A new element; `false` and `undefined` leave an attribute out, `true` sets it empty. */
export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children);
  return element;
}

/** An icon of the template's sprite. */
export function icon(name: string): SVGSVGElement {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** A list of names and values; an empty value leaves its row out. */
export function facts(rows: [string, string | Node | undefined][]): HTMLDListElement {
  const list = el("dl", { class: "facts" });
  for (const [name, value] of rows) {
    if (value !== undefined && value !== "") list.append(el("div", {}, el("dt", {}, name), el("dd", {}, value)));
  }
  return list;
}
