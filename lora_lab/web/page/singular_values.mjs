// The singular values of ΔW = scaling · B · A, without building ΔW: its rank is at most r.
//
// With A Aᵀ = L Lᵀ (Cholesky), the values squared are the eigenvalues of Lᵀ (Bᵀ B) L, an r × r
// matrix. 64-bit floats throughout.

/** Rows of a matrix, multiplied with each other: M Mᵀ, as a list of rows. */
function products(rows) {
  const all = rows.map(() => new Float64Array(rows.length));
  rows.forEach((one, p) => {
    for (let q = 0; q <= p; q++) {
      const other = rows[q];
      let sum = 0;
      for (let k = 0; k < one.length; k++) sum += one[k] * other[k];
      all[p][q] = all[q][p] = sum;
    }
  });
  return all;
}

function cholesky(square) {
  // a pivot that rounding has made negative counts as 0
  const n = square.length,
    L = square.map(() => new Float64Array(n));
  for (let row = 0; row < n; row++) {
    for (let column = 0; column <= row; column++) {
      let rest = square[row][column];
      for (let k = 0; k < column; k++) rest -= L[row][k] * L[column][k];
      if (row === column) L[row][row] = Math.sqrt(Math.max(0, rest));
      else L[row][column] = L[column][column] > 0 ? rest / L[column][column] : 0;
    }
  }
  return L;
}

/**
 * The eigenvalues of a symmetric matrix: Householder's reflections leave three diagonals, then QL
 * with implicit shifts leaves one. At r 64 all takes 3 ms of CPU. Jacobi's rotations are shorter to
 * write, but took 32, and inputs wait meanwhile.
 */
function eigenvalues(symmetric) {
  const M = symmetric.map(row => Float64Array.from(row)),
    n = M.length;
  const beside = new Float64Array(n); // the entries next to the diagonal
  for (let k = 0; k + 2 < n; k++) beside[k] = reflect(M, k);
  if (n > 1) beside[n - 2] = M[n - 1][n - 2];
  return diagonalOf(
    Float64Array.from(M, (row, k) => row[k]),
    beside,
  );
}

// Reflects the rows and columns after k so that column k ends below row k + 1; the entry there.
function reflect(M, k) {
  const n = M.length,
    v = new Float64Array(n),
    w = new Float64Array(n);
  let square = 0;
  for (let row = k + 1; row < n; row++) {
    v[row] = M[row][k];
    square += v[row] * v[row];
  }
  const left = v[k + 1] > 0 ? -Math.sqrt(square) : Math.sqrt(square);
  const length = square - left * v[k + 1]; // half of v · v, once v is the difference
  if (length === 0) return 0;
  v[k + 1] -= left;
  let along = 0;
  for (let row = k + 1; row < n; row++) {
    let sum = 0;
    for (let column = k + 1; column < n; column++) sum += M[row][column] * v[column];
    w[row] = sum / length;
    along += v[row] * w[row];
  }
  for (let row = k + 1; row < n; row++) w[row] -= (along / (2 * length)) * v[row];
  for (let row = k + 1; row < n; row++)
    for (let column = k + 1; column < n; column++)
      M[row][column] -= v[row] * w[column] + w[row] * v[column];
  return left;
}

// The eigenvalues of three diagonals, in the place of the middle one.
function diagonalOf(middle, beside) {
  const n = middle.length,
    small = at =>
      Math.abs(beside[at]) <= Number.EPSILON * (Math.abs(middle[at]) + Math.abs(middle[at + 1]));
  for (let first = 0; first < n; first++) {
    for (let round = 0; round < 60; round++) {
      let last = first;
      while (last < n - 1 && !small(last)) last += 1;
      if (last === first) break;
      let g = (middle[first + 1] - middle[first]) / (2 * beside[first]),
        r = Math.hypot(g, 1),
        s = 1,
        c = 1,
        p = 0;
      g = middle[last] - middle[first] + beside[first] / (g + (g < 0 ? -r : r));
      let at = last - 1;
      for (; at >= first; at--) {
        const f = s * beside[at],
          b = c * beside[at];
        r = beside[at + 1] = Math.hypot(f, g);
        if (r === 0) break;
        s = f / r;
        c = g / r;
        g = middle[at + 1] - p;
        r = (middle[at] - g) * s + 2 * c * b;
        p = s * r;
        middle[at + 1] = g + p;
        g = c * r - b;
      }
      if (at >= first) middle[at + 1] -= p;
      else {
        middle[first] -= p;
        beside[first] = g;
      }
      beside[last] = 0;
    }
  }
  return Array.from(middle);
}

/**
 * The r singular values of scaling · B · A, the largest first.
 *
 * A is (r, in), B is (out, r), both row by row.
 */
export function singularValues(A, B, r, scaling) {
  const wide = A.length / r,
    high = B.length / r;
  const rowsOfA = Array.from({ length: r }, (_, k) => A.subarray(k * wide, (k + 1) * wide));
  const columnsOfB = Array.from({ length: r }, (_, k) =>
    Float64Array.from({ length: high }, (_, row) => B[row * r + k]),
  );
  const L = cholesky(products(rowsOfA)),
    S = products(columnsOfB);
  const half = S.map(row =>
    Float64Array.from(row, (_, column) => {
      let sum = 0;
      for (let k = column; k < r; k++) sum += row[k] * L[k][column];
      return sum;
    }),
  );
  const core = L.map((_, row) =>
    L.map((_, column) => {
      let sum = 0;
      for (let k = row; k < r; k++) sum += L[k][row] * half[k][column];
      return sum;
    }),
  );
  return eigenvalues(core)
    .map(value => Math.abs(scaling) * Math.sqrt(Math.max(0, value)))
    .sort((a, b) => b - a);
}
