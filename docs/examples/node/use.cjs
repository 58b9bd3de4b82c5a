// SPDX-License-Identifier: BSD-3-Clause
const assert = require("assert");
const { penalty } = require(process.argv[2]);
assert.strictEqual(penalty(new Float32Array([3, -4]), 1, 0.5), 19.5);
assert.strictEqual(penalty(new BigInt64Array([-(2n ** 63n)]), 1, 0), 2 ** 63);
assert.throws(() => penalty(new Float64Array(1), -1, 0), RangeError);
console.log(penalty(new Float64Array(1000).fill(0.1), 0, 1));
