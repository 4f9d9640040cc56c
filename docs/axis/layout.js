"use strict";
// The arrays of the page, and where each of their values lies.
//
// A *cell* is a value, numbered as it is drawn: along the letters of `drawn`, the last fastest. An *offset* is its
// place in memory, along the letters of an order. The last two letters are the rows and columns of a grid, those before
// them the stack.

(function (axis) {
  const ARRAYS = {
    features: {
      title: "Batch × features",
      drawn: "NC",
      orders: { last: "NC" },
      names: { N: "sample", C: "feature" },
      padded: { letter: "C", lengths: [6, 4, 6, 5] },
      values: [
        [1.0, 4.5, -2.2, -0.4, 5.1, -1.5],
        [2.1, 7.1, -1.3, 0.9, 8.0, 0.2],
        [0.1, 1.5, -3.0, 0.2, 2.3, -2.2],
        [1.1, 3.9, -1.1, 2.3, 5.5, 1.1],
      ],
    },
    sequence: {
      title: "Batch × sequence × features",
      drawn: "NTC",
      orders: { last: "NTC", first: "NCT" },
      names: { N: "sample", T: "token", C: "feature" },
      padded: { letter: "T", lengths: [4, 2] },
      values: [
        [
          [0.7, 3.2, -4.0, -0.5, 5.4, -1.4],
          [-0.6, 3.1, -2.7, -0.4, 8.0, -1.5],
          [2.2, 6.7, -1.1, 1.6, 7.5, 0.3],
          [0.5, 4.8, -0.5, -0.4, 8.4, -0.3],
        ],
        [
          [1.5, 8.4, -0.4, 0.5, 7.3, 0.5],
          [1.9, 6.2, -0.9, 2.3, 10.0, -0.2],
          [2.5, 4.5, -0.7, 0.6, 6.1, 0.2],
          [4.9, 8.9, 0.2, 2.7, 10.3, 1.0],
        ],
      ],
    },
    image: {
      title: "N, C, H, W",
      drawn: "NCHW",
      orders: { first: "NCHW", last: "NHWC" },
      names: { N: "sample", C: "channel", H: "row", W: "column" },
      padded: { letter: "W", lengths: [3, 2] },
      values: [
        [
          [
            [-0.4, -0.3, 0.4],
            [-0.1, -0.2, -1.1],
            [0.0, -0.4, 1.2],
          ],
          [
            [3.3, 3.0, 3.3],
            [2.8, 3.5, 3.0],
            [3.3, 2.4, 3.2],
          ],
          [
            [-4.5, -5.1, -2.5],
            [-3.3, -1.8, 1.4],
            [-3.2, -2.9, -1.7],
          ],
          [
            [7.0, 5.6, 5.6],
            [7.4, 7.0, 3.9],
            [5.8, 6.1, 3.9],
          ],
        ],
        [
          [
            [2.3, 1.1, 3.0],
            [2.2, 2.1, 1.4],
            [1.9, 0.0, 0.9],
          ],
          [
            [5.2, 3.9, 5.4],
            [4.1, 5.4, 4.6],
            [5.4, 5.1, 4.2],
          ],
          [
            [1.9, 2.2, -0.1],
            [-0.4, -0.2, -1.5],
            [1.6, -0.8, -0.1],
          ],
          [
            [6.4, 6.7, 5.4],
            [10.5, 7.7, 9.9],
            [8.0, 6.6, 7.3],
          ],
        ],
      ],
    },
  };

  // What a model had learned before this batch: a mean and a variance for each channel, the first of these.
  const RUNNING = { mean: [0.5, 3.5, -1.5, 1.0, 6.0, -0.5], variance: [1.0, 4.0, 2.0, 1.5, 5.0, 1.0] };

  function lengths(values) {
    return Array.isArray(values) ? [values.length, ...lengths(values[0])] : [];
  }

  for (const array of Object.values(ARRAYS)) {
    const sizes = lengths(array.values);
    array.sizes = Object.fromEntries([...array.drawn].map((letter, i) => [letter, sizes[i]]));
    array.values = array.values.flat(Infinity);
  }

  function shape(array, letters) {
    return [...letters].map((letter) => array.sizes[letter]);
  }

  // The coordinates of the element with a number, the last axis fastest; and back.
  function coordinates(number, shape) {
    const found = Array(shape.length);
    for (let i = shape.length - 1; i >= 0; i--) {
      found[i] = number % shape[i];
      number = Math.floor(number / shape[i]);
    }
    return found;
  }

  function numbered(coordinates, shape) {
    return coordinates.reduce((number, coordinate, i) => number * shape[i] + coordinate, 0);
  }

  // The coordinate of a cell along each letter.
  function place(array, cell) {
    const found = coordinates(cell, shape(array, array.drawn));
    return Object.fromEntries([...array.drawn].map((letter, i) => [letter, found[i]]));
  }

  // The offset of each cell.
  function offsets(array, order) {
    return array.values.map((_, cell) => {
      const at = place(array, cell);
      return numbered(
        [...order].map((letter) => at[letter]),
        shape(array, order),
      );
    });
  }

  // For each cell, whether it lies within the length of its sample.
  function inside(array) {
    const { letter, lengths } = array.padded;
    return array.values.map((_, cell) => {
      const at = place(array, cell);
      return at[letter] < lengths[at.N];
    });
  }

  axis.layout = { ARRAYS, RUNNING, shape, coordinates, numbered, place, offsets, inside };
})((globalThis.axis ??= {}));
