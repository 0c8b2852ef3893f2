// A page that is opened as a file may not start a worker. There, and only there, a hidden frame takes its place: it runs the same
// script, and messages go between the two as they would between a page and its worker.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      this.onmessage = null;
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.documentElement.append(frame);
      const inside = this.inside = frame.contentWindow;
      inside.postMessage = data => this.hear(data);
      inside.importScripts = (...addresses) => addresses.forEach(each => this.run(each));
      this.run(address).onload = () => { this.ready = true; this.waiting.splice(0).forEach(data => this.tell(data)); };
    }
    run(address) {
      const script = this.inside.document.createElement("script");
      script.src = new URL(address, location.href).href;
      script.async = false;
      return this.inside.document.documentElement.appendChild(script);
    }
    postMessage(data) { this.ready ? this.tell(data) : this.waiting.push(data); }
    tell(data) { setTimeout(() => this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data }))); }
    hear(data) {
      setTimeout(() => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        this.onmessage?.(event);
      });
    }
    terminate() { this.inside.frameElement.remove(); }
  };
}
