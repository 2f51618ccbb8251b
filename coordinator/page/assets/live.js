// Keeps #live up to date while somebody looks at it, and says when the coordinator is out of reach.
// htmx fetches the same address and takes over what has changed: scroll, focus and text selected stay.
"use strict";

(() => {
  const notice = document.getElementById("reach");
  let timer;
  let reachedAt = new Date();

  const live = () => document.getElementById("live");

  function refresh() {
    clearTimeout(timer);
    if (!document.hidden) {
      live()?.dispatchEvent(new Event("refresh"));
    }
  }

  function wait() {
    clearTimeout(timer);
    const seconds = Number(live()?.dataset.every);
    if (seconds && !document.hidden) {
      timer = setTimeout(refresh, 1000 * seconds);
    }
  }

  function say(what) {
    const text = what && `${what} These numbers are of ${reachedAt.toLocaleTimeString()}.`;
    if (notice.textContent !== text) {
      notice.textContent = text;
      notice.hidden = !text;
    }
  }

  document.addEventListener("htmx:after:request", (event) => {
    const status = event.detail.ctx.response.status;
    if (status === 401) {
      location.reload(); // which leads to the sign-in
    } else if (status >= 400) {
      say(`The coordinator answers ${status}.`);
    } else {
      reachedAt = new Date();
      say("");
    }
  });
  document.addEventListener("htmx:error", () => say("The coordinator is out of reach."));
  document.addEventListener("htmx:finally:request", wait);
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
  wait();
})();
