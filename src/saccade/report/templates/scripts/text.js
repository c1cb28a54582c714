// Replies and questions: the think block folds, formulas are drawn, tokens are shaded by log-prob.

// As in formulas.py.
const FORMULA =
  /\\\\|\$\$([^$]+)\$\$|\$([^$\n]+)\$|\\\(((?:[^\\]|\\\\|\\(?![\\(]))+?)\\\)|\\\[((?:[^\\]|\\\\|\\(?![\\[]))+?)\\\]/g;

function withFormulas(text, formulas) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(FORMULA)) {
    const formula = (match.slice(1).find((group) => group) ?? "").trim();
    if (!Object.hasOwn(formulas, formula)) continue;
    const tree = formulas[formula];
    const drawn = mathml(tree);
    drawn.setAttribute("display", match[1] || match[4] ? "block" : "inline");
    nodes.push(text.slice(end, match.index), drawn);
    end = match.index + match[0].length;
  }
  return [...nodes, text.slice(end)];
}

// [kind, start, end] of the pieces of a reply, in characters; kinds: tag, think, answer, outside.
function pieces(chars) {
  const text = chars.join("");
  const exact = text.length === chars.length;
  const found = [];
  let kind = "outside", start = 0;
  for (const match of text.matchAll(/<\/?(?:think|answer)>/g)) {
    const at = exact ? match.index : Array.from(text.slice(0, match.index)).length;
    if (at > start) found.push([kind, start, at]);
    found.push(["tag", at, at + match[0].length]);
    kind = match[0].startsWith("</") ? "outside" : match[0].slice(1, -1);
    start = at + match[0].length;
  }
  if (chars.length > start) found.push([kind, start, chars.length]);
  return found;
}

// The tokens between two characters, each shaded by how unlikely it was.
function shaded(chars, reply, start, end) {
  const nodes = [];
  let at = 0;
  for (let i = 0; i < reply.e.length; i++) {
    const from = Math.max(at, start), to = Math.min(at + reply.e[i], end);
    at += reply.e[i];
    if (to <= from) continue;
    const logprob = -reply.lp[i] / 10;
    const shade = Math.min(5, Math.floor(-logprob * 1.5));
    nodes.push(el("span", { class: `token p${shade}`, title: `p ${number(Math.exp(logprob))}, log-prob ${number(logprob)}` }, chars.slice(from, to).join("")));
  }
  if (at < end) nodes.push(chars.slice(Math.max(at, start), end).join(""));
  return nodes;
}

function replyText(reply, formulas, { shade = false, open = false } = {}) {
  const chars = Array.from(reply.t);
  if (!chars.length) return el("div", { class: "reply" }, el("span", { class: "think" }, "(empty reply)"));
  const draw = (start, end) =>
    shade && reply.e ? shaded(chars, reply, start, end) : withFormulas(chars.slice(start, end).join(""), formulas);
  const nodes = pieces(chars).map(([kind, start, end]) => {
    if (kind !== "think") return el("span", { class: kind }, draw(start, end));
    const words = chars.slice(start, end).join("").trim();
    return el("details", { class: "thought", open }, el("summary", {}, words.length > 44 ? `${words.slice(0, 44)}...` : words || "(empty)"), el("span", { class: "think" }, draw(start, end)));
  });
  return el("div", { class: "reply" }, nodes);
}

function questionOf(entry, formulas) {
  return [
    el("p", { class: "ask" }, withFormulas(entry.q, formulas)),
    entry.options.length > 0 && el("p", { class: "options" }, entry.options.map(([letter, text]) => el("span", {}, el("b", {}, letter), " ", ...withFormulas(text, formulas)))),
    entry.gold && el("p", { class: "gold" }, "true answer ", el("b", {}, withFormulas(entry.gold, formulas))),
  ];
}
