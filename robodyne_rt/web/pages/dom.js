/**
 * Small helpers to write the page cheaply: what did not change is not touched.
 *
 * Texts of devices go through `textContent` and `setAttribute` only; nothing here parses HTML.
 */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Return an element of index.html.
 *
 * @returns {any} of the kind that stands there
 */
export const byId = (id) => document.getElementById(id);

/**
 * Return the element of index.html that a selector finds.
 *
 * @returns {any} of the kind that stands there
 */
export const first = (selector) => document.querySelector(selector);

/**
 * Return the elements that a selector finds.
 *
 * @returns {NodeListOf<HTMLElement>}
 */
export const all = (selector) => document.querySelectorAll(selector);

/** Return a new HTML element with a class and children (elements or texts). */
export function element(tag, className = "", ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

/** Return a new SVG element with attributes and children. */
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Set a text if it differs. */
export function text(node, value) {
  const wanted = String(value ?? "");
  if (node.lastText !== wanted) {
    node.textContent = wanted;
    node.lastText = wanted;
  }
}

/** Set an attribute if it differs; null removes it. */
export function attribute(node, name, value) {
  const wanted = value === null || value === undefined ? null : String(value);
  const known = (node.lastAttributes ??= {});
  if (known[name] === wanted) return;
  known[name] = wanted;
  if (wanted === null) node.removeAttribute(name);
  else node.setAttribute(name, wanted);
}

/** Return how many children of a scrolling list end below its edge, or `margin` above it; the list is their offset parent. */
export function below(list, children = [...list.children], margin = 0) {
  const edge = list.scrollTop + list.clientHeight + 1 - margin;
  return children.filter((child) => child.offsetTop + child.offsetHeight > edge).length;
}

/**
 * Keep one child element per item: `create(item)` makes it, `update(child, item)` writes it; the order is that of `items`.
 *
 * @param {Element} parent
 * @param {{ key: (item: any) => unknown, create: (item: any) => Element, update: (child: any, item: any) => void }} how
 * @returns {(items: Array) => void}
 */
export function keyed(parent, { key, create, update }) {
  let children = new Map();
  return (items) => {
    const next = new Map();
    for (const item of items) {
      const id = key(item);
      const child = children.get(id) ?? create(item);
      children.delete(id);
      next.set(id, child);
      update(child, item);
    }
    for (const child of children.values()) child.remove();
    let place = parent.firstChild;
    for (const child of next.values()) {
      if (child === place) place = child.nextSibling;
      else parent.insertBefore(child, place);
    }
    children = next;
  };
}
