// Figures open large, words of the glossary explain themselves, wide parts scroll by keyboard.
// Without this script pictures and words are ordinary links.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  // --- figures ---
  const large = document.createElement("dialog");
  large.id = "large";
  large.innerHTML = '<form method="dialog"><button autofocus>Close</button>' +
    '<button type="button">True size</button><a download>Download</a></form><img alt="">';
  document.body.append(large);
  const picture = large.querySelector("img"), size = large.querySelector("[type=button]");
  const fit = (fits) => {
    large.classList.toggle("fits", fits);
    size.textContent = fits ? "True size" : "Fit to window";
  };
  size.addEventListener("click", () => fit(!large.classList.contains("fits")));
  large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
  for (const link of document.querySelectorAll("a.enlarge"))
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const shown = link.querySelector("img");
      picture.src = link.href;
      picture.alt = shown.alt;
      large.setAttribute("aria-label", shown.alt);
      large.querySelector("a").href = link.href;
      fit(true);
      large.showModal();
    });

  // --- words ---
  const words = window.ankleWords || {};
  const bubble = document.createElement("div");
  bubble.id = "explained";
  bubble.setAttribute("role", "tooltip");
  bubble.hidden = true;
  (document.querySelector("[role=main]") || document.body).append(bubble);
  let asked = null, leaving = 0;
  const hide = () => {
    if (asked) asked.removeAttribute("aria-describedby");
    asked = null;
    bubble.hidden = true;
  };
  const place = () => {
    if (!asked) return;
    const box = asked.getBoundingClientRect(), width = document.documentElement.clientWidth;
    const left = Math.max(8, Math.min(box.left, width - bubble.offsetWidth - 8));
    const below = box.bottom + bubble.offsetHeight + 8 < window.innerHeight;
    bubble.style.left = `${left}px`;
    bubble.style.top = `${below ? box.bottom + 4 : box.top - bubble.offsetHeight - 4}px`;
  };
  const explain = (link) => {
    clearTimeout(leaving);
    const text = words[link.hash.slice(1)];
    if (!text) return false;
    hide();
    asked = link;
    link.setAttribute("aria-describedby", "explained");
    bubble.innerHTML = text;
    bubble.hidden = false;
    place();
    return true;
  };
  const later = () => { leaving = setTimeout(hide, 200); };
  for (const link of document.querySelectorAll("a.word")) {
    link.addEventListener("mouseenter", () => explain(link));
    link.addEventListener("mouseleave", later);
    link.addEventListener("focus", () => explain(link));
    link.addEventListener("blur", hide);
    let touched = false;
    link.addEventListener("pointerdown", (event) => {
      touched = event.pointerType === "touch" && asked !== link;
    });
    // a finger cannot hover: the first touch explains, the second follows the link
    link.addEventListener("click", (event) => { if (touched && explain(link)) event.preventDefault(); });
  }
  bubble.addEventListener("mouseenter", () => clearTimeout(leaving));
  bubble.addEventListener("mouseleave", later);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  window.addEventListener("scroll", place, {passive: true});

  // --- what is wider than the page ---
  const reachable = () => {
    for (const part of document.querySelectorAll(".wide, .table-wrapper, article pre")) {
      const wide = part.scrollWidth > part.clientWidth + 1;
      if (wide && !part.hasAttribute("tabindex")) {
        part.tabIndex = 0;
        part.setAttribute("role", "group");
        part.setAttribute("aria-label", part.matches("pre") ? "Code or output" : "Table");
      }
    }
  };
  reachable();
  window.addEventListener("resize", reachable);
  document.addEventListener("toggle", reachable, true);
});
