// Validates objects of Prometheus' operator, a JSON list on standard input, against its schemas. Unknown keys pass.
// Prints how many objects it knew.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const schemas = "node_modules/@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/index.js";
const kinds = await import(pathToFileURL(`${process.argv[2]}/${schemas}`));
let known = 0;
for (const item of JSON.parse(readFileSync(0))) {
  if (item.apiVersion === "monitoring.coreos.com/v1") {
    new kinds[item.kind](item).validate();
    known += 1;
  }
}
console.log(known);
