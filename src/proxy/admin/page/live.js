// Puts what the proxy sends in place of what is shown, piece by piece, so that focus, selection and scrolling stay.
"use strict";
(() => {
  const live = document.getElementById("live");
  const say = (text) => {
    document.body.classList.toggle("stale", text !== "");
    if (live.textContent !== text) live.textContent = text;
  };
  const put = (old, next) => {
    if (old.nodeType !== next.nodeType || old.nodeName !== next.nodeName) {
      old.replaceWith(document.importNode(next, true));
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== next.data) old.data = next.data;
      return;
    }
    for (const { name } of [...old.attributes]) if (!next.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of next.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const there = [...old.childNodes], wanted = [...next.childNodes];
    wanted.forEach((node, at) => {
      if (at < there.length) put(there[at], node);
      else old.append(document.importNode(node, true));
    });
    there.slice(wanted.length).forEach((node) => node.remove());
  };
  const titled = () => { document.title = document.getElementById("top").dataset.title; };
  let heard = Date.now(), ended = false;
  const since = () => `${new Date(heard).toISOString().slice(11, 19)} UTC`;
  const source = new EventSource("dashboard/events");
  source.addEventListener("section", (event) => {
    const next = new DOMParser().parseFromString(event.data, "text/html").body.firstElementChild;
    const here = next && document.getElementById(next.id);
    if (here) put(here, next);
    titled();
    heard = Date.now();
    say("");
  });
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED || ended) return;
    ended = true;
    say("Not live: the proxy does not send news to this page. It is loaded anew in 10 seconds.");
    setTimeout(() => location.reload(), 10000);
  });
  setInterval(() => {
    if (!ended && Date.now() - heard > 5000) say(`Nothing heard of the proxy since ${since()}: what is below is from then.`);
  }, 1000);
  titled();
  say("");
})();
