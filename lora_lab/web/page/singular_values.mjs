// The singular values of ΔW = scaling · B · A, without building ΔW: its rank is at most r.
//
// With A Aᵀ = L Lᵀ (Cholesky), the values squared are the eigenvalues of Lᵀ (Bᵀ B) L, an r × r
// matrix, which Jacobi's rotations find. 64-bit floats throughout.

/** Rows of a matrix, multiplied with each other: M Mᵀ, as a list of rows. */
function products(rows) {
  return rows.map(one =>
    rows.map(other => one.reduce((sum, value, k) => sum + value * other[k], 0)),
  );
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

function eigenvalues(symmetric) {
  // Jacobi: rotate the largest entries away until none is left
  const M = symmetric.map(row => Float64Array.from(row)),
    n = M.length;
  for (let sweep = 0; sweep < 50; sweep++) {
    let off = 0,
      all = 0;
    for (let p = 0; p < n; p++)
      for (let q = 0; q < n; q++) {
        all += M[p][q] ** 2;
        if (p !== q) off += M[p][q] ** 2;
      }
    if (off <= 1e-24 * all) break;
    for (let p = 0; p < n; p++)
      for (let q = p + 1; q < n; q++) {
        if (!M[p][q]) continue;
        const theta = (M[q][q] - M[p][p]) / (2 * M[p][q]);
        const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.hypot(theta, 1));
        const c = 1 / Math.hypot(t, 1),
          s = t * c;
        for (let k = 0; k < n; k++) {
          [M[k][p], M[k][q]] = [c * M[k][p] - s * M[k][q], s * M[k][p] + c * M[k][q]];
        }
        for (let k = 0; k < n; k++) {
          [M[p][k], M[q][k]] = [c * M[p][k] - s * M[q][k], s * M[p][k] + c * M[q][k]];
        }
      }
  }
  return M.map((row, k) => row[k]);
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
