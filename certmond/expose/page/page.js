"use strict";
// Request the page every two seconds, and replace the elements that differ. Open details stay open, the focused element
// keeps the focus, and the page does not scroll. Without this script, the page is complete, but does not update itself.
(() => {
  const every = 2000, page = document.documentElement, note = document.getElementById("connection");
  let tag = page.dataset.tag, timer = 0, asking = false, seen = new Date();

  const merge = (old, next) => {
    if (old.isEqualNode(next)) return;
    if (old.nodeName !== next.nodeName || (old.id ?? "") !== (next.id ?? "")) { old.replaceWith(next); return; }
    if (old.nodeType !== Node.ELEMENT_NODE) { old.data = next.data; return; }
    for (const { name } of [...old.attributes]) if (name !== "open" && !next.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of next.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const named = new Map([...next.children].filter((child) => child.id).map((child) => [child.id, child]));
    const kept = new Map();
    for (const child of [...old.children]) {
      if (!child.id) continue;
      if (named.has(child.id)) kept.set(child.id, child); else child.remove();
    }
    let place = old.firstChild;
    for (const child of [...next.childNodes]) {
      const same = child.id ? kept.get(child.id) : place && !place.id && place.nodeName === child.nodeName ? place : null;
      if (!same) { old.insertBefore(child, place); continue; }
      if (same === place) place = place.nextSibling; else old.insertBefore(same, place);
      merge(same, child);
    }
    while (place) { const gone = place; place = place.nextSibling; gone.remove(); }
  };

  const look = async () => {
    if (asking) return;
    asking = true;
    clearTimeout(timer);
    try {
      const answer = await fetch(location.pathname, { headers: { "If-None-Match": `"${tag}", "${tag}-gzip"` }, cache: "no-store" });
      if (answer.ok) {
        const next = new DOMParser().parseFromString(await answer.text(), "text/html");
        if (next.documentElement.dataset.version !== page.dataset.version) { location.reload(); return; }
        merge(document.getElementById("live"), next.getElementById("live"));
        merge(document.querySelector("link[rel=icon]"), next.querySelector("link[rel=icon]"));
        document.title = next.title;
        tag = next.documentElement.dataset.tag;
      } else if (answer.status !== 304) throw new Error(`the server answered ${answer.status}`);
      seen = new Date();
      note.hidden = true;
    } catch (error) {
      const since = seen.toISOString().slice(0, 19).replace("T", " ");
      note.textContent = `This page shows the state at ${since} UTC and cannot be updated (${error.message}).`;
      note.hidden = false;
    } finally {
      asking = false;
    }
    timer = document.hidden ? 0 : setTimeout(look, every);
  };

  const show = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target instanceof HTMLDetailsElement) target.open = true;
  };

  document.getElementById("how").textContent = "The page updates automatically.";
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
  addEventListener("hashchange", show);
  show();
  timer = setTimeout(look, every);
})();
