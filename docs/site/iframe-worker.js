// Browsers start no worker for a page that was opened from disk. The search then runs in a hidden frame, which takes
// messages as the worker would.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(script) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.appendChild(this.frame)
      const inside = this.frame.contentWindow
      inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      inside.importScripts = (...scripts) => Promise.all(scripts.map(address => this.load(new URL(address, script))))
      this.ready = this.load(script)
    }
    load(address) {
      const inside = this.frame.contentDocument
      const element = inside.createElement("script")
      element.src = address
      return new Promise((done, failed) => {
        element.onload = done
        element.onerror = failed
        inside.body.appendChild(element)
      })
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }
    terminate() {
      this.frame.remove()
    }
  }
}
