// Elements are built node by node: text from models and data is never parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";
const MATHML = "http://www.w3.org/1998/Math/MathML";

function place(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function el(tag, attributes, ...children) {
  return place(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return place(document.createElementNS(SVG, tag), attributes, children);
}

// A formula as the report converted it: [element, attributes, children...].
function mathml(tree) {
  const [tag, attributes, ...children] = tree;
  const nodes = children.map((child) => (typeof child === "string" ? child : mathml(child)));
  return place(document.createElementNS(MATHML, tag), attributes, nodes);
}

// A number in 3 significant digits, as the charts write it.
function number(value, percent) {
  if (value === null || value === undefined) return "-";
  if (percent) return `${Number((100 * value).toPrecision(3))}%`;
  const size = Math.abs(value);
  if (size >= 10000) return `${Number((value / 1000).toPrecision(3))}k`;
  if (size >= 1000) return value.toFixed(0);
  return size > 0 && size < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

// An image with boxes in its own pixels: [box, "gold" or "predicted"]; a click or Enter enlarges it.
function picture(image, boxes, label) {
  const stroke = Math.max(image.w, image.h) / 90;
  const shapes = (kind, extra) =>
    boxes.map(([[x1, y1, x2, y2], type]) =>
      svg("rect", {
        class: kind === "halo" ? "halo" : `box ${type}`,
        x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1),
        "stroke-width": kind === "halo" ? 2.2 * stroke : stroke,
        "stroke-dasharray": kind !== "halo" && type === "predicted" ? `${3 * stroke} ${3 * stroke}` : null,
        ...extra,
      }));
  return svg(
    "svg",
    { class: "picture", viewBox: `0 0 ${image.w} ${image.h}`, role: "img", "aria-label": label || "image of the question", tabindex: 0 },
    svg("image", { href: image.src, width: image.w, height: image.h }),
    shapes("halo"),
    shapes("box"),
  );
}

// One dialog shows any picture large.
function enlargePictures() {
  const dialog = el("dialog", { class: "enlarged", "aria-label": "enlarged image" });
  document.body.append(dialog);
  dialog.addEventListener("click", () => dialog.close());
  const open = (event) => {
    const shown = event.target.closest && event.target.closest("svg.picture");
    if (!shown || dialog.open) return;
    if (event.type === "keydown" && event.key !== "Enter") return;
    dialog.replaceChildren(shown.cloneNode(true), el("button", { type: "button", class: "close", autofocus: true }, "Close"));
    dialog.showModal();
  };
  document.addEventListener("click", open);
  document.addEventListener("keydown", open);
}
