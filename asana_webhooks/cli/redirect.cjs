// Leads a Node.js program to the local Asana; `simulate --run` loads it by NODE_OPTIONS.
// fetch and https of older versions of Node.js read no variable of a proxy.

"use strict";

const nodeModule = require("module");
const tls = require("tls");

const target = require("./target.json");
const connect = tls.connect;

// It is called with (options), (port, options) or (port, host, options), and each with a callback.
function asked(args) {
  const found = Object.assign({}, ...args.filter((each) => each && typeof each === "object"));
  const [first, second] = args;
  if (typeof first === "number" || typeof first === "string") found.port = first;
  if (typeof second === "string") found.host = second;
  return found;
}

tls.connect = function (...args) {
  const options = asked(args);
  if (options.socket || options.host !== target.host || Number(options.port) !== 443) {
    return connect.apply(this, args);
  }
  const servername = options.servername || target.host;
  const callback = args.find((each) => typeof each === "function");
  const there = { host: target.address, port: target.port, servername };
  return connect.call(this, { ...options, ...there }, callback);
};
nodeModule.syncBuiltinESMExports();
