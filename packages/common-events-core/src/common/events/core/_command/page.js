"use strict";
(() => {
  const input = document.getElementById("search");
  const found = document.getElementById("found");
  const none = document.getElementById("none");
  const articles = [...document.querySelectorAll("article")];
  const streams = [...document.querySelectorAll("section.of-stream")];
  const always = [...document.querySelectorAll("section.always")];
  const groups = [...document.querySelectorAll("nav .group:not(.always)")];

  const show = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const hidden = new Set();
    for (const article of articles) {
      const text = article.dataset.search;
      article.hidden = !words.every((word) => text.includes(word));
      if (article.hidden) hidden.add(article.getAttribute("aria-labelledby"));
    }
    for (const stream of streams) {
      stream.hidden = [...stream.querySelectorAll("article")].every((each) => each.hidden);
    }
    for (const section of always) section.hidden = words.length > 0;
    for (const group of groups) {
      const items = [...group.querySelectorAll("li")];
      for (const item of items) item.hidden = hidden.has(item.dataset.for);
      group.hidden = items.every((item) => item.hidden);
    }
    const count = articles.length - hidden.size;
    none.hidden = count > 0;
    found.textContent = words.length ? `${count} of ${articles.length}` : "";
  };

  input.closest(".search").hidden = false;
  input.addEventListener("input", show);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { input.value = ""; show(); }
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    input.focus();
  });
  // A link into what the search hides shows everything again.
  addEventListener("hashchange", () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.closest("[hidden]")) { input.value = ""; show(); target.scrollIntoView(); }
  });
  show();
})();
