// Leads a Node.js program to the local Asana; `simulate --run` loads it by NODE_OPTIONS.
// fetch and https of older versions of Node.js read no variable of a proxy.

"use strict";

const module_ = require("module");
const tls = require("tls");

const HOST = process.env.ASANA_SIMULATOR_FOR;
const [, host, port] = /^\[?(.+?)\]?:(\d+)$/.exec(process.env.ASANA_SIMULATOR_AT);
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
  if (options.socket || options.host !== HOST || Number(options.port) !== 443) {
    return connect.apply(this, args);
  }
  const servername = options.servername || HOST;
  const callback = args.find((each) => typeof each === "function");
  return connect.call(this, { ...options, host, port: Number(port), servername }, callback);
};
module_.syncBuiltinESMExports();
