// Held-out questions: replies to the same question side by side, over steps, models or runs.

function heldoutBrowser(root, data) {
  const { items, pictures, formulas } = data;
  const seen = (item) => item.r.filter((reply) => !reply.blind);
  const last = (item) => seen(item).at(-1);
  const only = (name) => (item) => { const right = seen(item).filter((reply) => reply.right); return right.length === 1 && right[0].who === name; };
  const ofRuns = Object.fromEntries(data.names.map((name, i) => [`only${i}`, [`only ${name} is right`, only(name)]]));
  const kinds = data.names.length ? {
    ...ofRuns,
    differ: ["answered differently", (item) => new Set(seen(item).map((reply) => reply.right)).size > 1],
    never: ["no run is right", (item) => seen(item).every((reply) => reply.right === false)],
  } : {
    wrong: ["wrong at the end", (item) => last(item)?.right === false],
    worse: ["got worse: right before, wrong at the end", (item) => last(item)?.right === false && seen(item).some((reply) => reply.right)],
    better: ["got better: wrong first, right at the end", (item) => seen(item)[0]?.right === false && last(item)?.right],
    never: ["never right", (item) => seen(item).every((reply) => reply.right === false)],
    differ: ["answered differently", (item) => new Set(seen(item).map((reply) => reply.right)).size > 1],
    blind: ["right without the image", (item) => item.r.some((reply) => reply.blind && reply.right)],
  };
  const mark = (reply) => el("span", { class: `mark ${reply.right ? "right" : "wrong"}` }, reply.right === null || reply.right === undefined ? "not graded" : reply.right ? "right" : "wrong");

  browser(root, items, {
    key: "item",
    label: "held-out questions",
    first: (all) => all.find((item) => item.img.length && (kinds.better || kinds.differ)[1](item)),
    filters: [
      { name: "kind", label: "Questions", choices: (all) => Object.entries(kinds).filter(([, [, keep]]) => all.some(keep)).map(([name, [label, keep]]) => [name, `${label} (${all.filter(keep).length})`]), keep: (item, value) => kinds[value][1](item) },
      { name: "task", label: "Task", choices: (all) => distinct(all, (item) => item.task), keep: (item, value) => item.task === value },
      { name: "split", label: "Split", choices: (all) => distinct(all, (item) => item.split), keep: (item, value) => item.split === value },
      { name: "image", label: "with image", keep: (item) => item.img.length > 0 },
    ],
    row: (item) => [
      thumbnail(item, pictures),
      el("span", { class: "line" }, el("b", {}, item.task.replaceAll("_", " ")), el("small", {}, item.q)),
      el("span", { class: "dots", title: "right or wrong, in order" }, seen(item).map((reply) => el("i", { class: reply.right ? "full" : "none" }))),
    ],
    detail: (item) => [
      el("p", { class: "eyebrow" }, `${item.task.replaceAll("_", " ")}, ${item.split}`),
      el("div", { class: "question" }, figuresOf(item, pictures, []), el("div", {}, questionOf(item, formulas))),
      el("ol", { class: "siblings" }, item.r.map((reply) =>
        el("li", { class: `sibling${reply.blind ? " blind" : ""}` },
          el("p", { class: "who" }, reply.who, mark(reply)),
          item.gb.length > 0 && item.img.length > 0 && !reply.blind && el("div", { class: "image small" }, picture(pictures[item.img[item.bi]], [...item.gb.map((box) => [box, "gold"]), ...reply.b.map((box) => [box, "predicted"])])),
          replyText(reply, formulas, { open: reply.t.length < 200 }),
          reply.n !== undefined && el("p", { class: "factline" }, el("span", {}, "tokens ", el("b", {}, String(reply.n))))))),
    ],
  });
}
