// Values at the pointer and legends that toggle, on charts that are complete without this script.

function nearest(xs, x) {
  let low = 0, high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle;
    else high = middle;
  }
  return x - xs[low] <= xs[high] - x ? low : high;
}

function hoverValues(figure) {
  const chart = figure.querySelector("svg.chart[data-values]");
  if (!chart) return;
  const { plot: [left, right, top, bottom], range: [low, high], percent, lines } = JSON.parse(chart.dataset.values);
  const steps = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const rule = svg("line", { class: "rule", y1: top, y2: bottom, visibility: "hidden" });
  chart.append(rule);
  const tip = el("p", { class: "tip", hidden: true, role: "status" });
  figure.append(tip);
  let at = steps.length - 1;

  const hide = () => { tip.hidden = true; rule.setAttribute("visibility", "hidden"); };
  const show = () => {
    const x = steps[at];
    const place = left + ((x - low) / (high - low || 1)) * (right - left);
    rule.setAttribute("x1", place);
    rule.setAttribute("x2", place);
    rule.setAttribute("visibility", "visible");
    const gap = steps.length > 1 ? (high - low) / (steps.length - 1) : 1;
    const values = lines.flatMap((line, i) => {
      if (chart.querySelector(`g[data-line="${i}"]`).classList.contains("off")) return [];
      const j = nearest(line.x, x);
      return Math.abs(line.x[j] - x) > 2 * gap ? [] : [el("span", {}, el("i", { class: `c${line.color}` }), `${line.name} `, el("b", {}, number(line.y[j], percent)))];
    });
    tip.replaceChildren(el("span", { class: "at" }, `step ${number(x)}`), ...values);
    tip.classList.toggle("right", place < (left + right) / 2);
    tip.hidden = false;
  };
  chart.setAttribute("tabindex", "0");
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
    at = nearest(steps, low + ((x - left) / (right - left)) * (high - low));
    show();
  });
  chart.addEventListener("pointerleave", hide);
  chart.addEventListener("blur", hide);
  chart.addEventListener("focus", () => { if (chart.matches(":focus-visible")) show(); });
  chart.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -steps.length, End: steps.length }[event.key];
    if (!move) return;
    event.preventDefault();
    at = Math.min(steps.length - 1, Math.max(0, at + move));
    show();
  });
}

function toggleLines(figure) {
  figure.querySelectorAll(".legend > span").forEach((entry, i) => {
    const button = el("button", { type: "button", "aria-pressed": "true" }, ...entry.childNodes);
    button.addEventListener("click", () => {
      const off = figure.querySelector(`g[data-line="${i}"]`).classList.toggle("off");
      button.setAttribute("aria-pressed", String(!off));
    });
    entry.replaceWith(button);
  });
}
