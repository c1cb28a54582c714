// Begins everything. What is chosen is kept in the address, so that a reload or a link shows it again.

function stateOf() {
  return new URLSearchParams(location.hash.slice(1));
}

function recall(key) {
  return stateOf().get(key);
}

let remembering = false;

function remember(key, value) {
  if (!remembering) return;
  const state = stateOf();
  state.set(key, value);
  history.replaceState(null, "", `#${state}`);
}

// A served page asks its server now and then whether the run's files changed.
function follow(seconds, version) {
  const ask = async () => {
    try {
      const now = await (await fetch("version", { cache: "no-store" })).text();
      const busy = document.querySelector("dialog[open]") || document.activeElement?.matches("select");
      if (now !== version && !busy) location.reload();
      document.body.classList.remove("lost");
    } catch {
      document.body.classList.add("lost");
    }
    setTimeout(ask, 1000 * seconds);
  };
  setTimeout(ask, 1000 * seconds);
}

function start() {
  document.documentElement.classList.add("scripted");
  const data = JSON.parse(document.getElementById("data").textContent);
  document.querySelectorAll("figure").forEach((figure) => { hoverValues(figure); toggleLines(figure); });
  const groups = document.getElementById("group-browser"), items = document.getElementById("item-browser");
  if (groups) groupBrowser(groups, data);
  if (items) heldoutBrowser(items, data);
  remembering = true;
  enlargePictures();
  if (data.live) follow(data.live.seconds, data.live.version);
}

start();
