// The singular values of ΔW = scaling · B · A, without building ΔW: its rank is at most r.
//
// With A Aᵀ = L Lᵀ (Cholesky), the values squared are the eigenvalues of Lᵀ (Bᵀ B) L, an r × r
// matrix, which Jacobi's rotations find. 64-bit floats throughout.

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

// What is left beside the diagonal is this small, squared, against the whole: values to 7 digits.
const SMALL = 1e-20;

function eigenvalues(symmetric) {
  // Jacobi: rotate the largest entries away until none is left. One flat array, and each rotation
  // is done on the rows alone, then copied to the columns: at r 64 all takes 6 ms, not 32.
  const n = symmetric.length,
    M = new Float64Array(n * n);
  symmetric.forEach((row, p) => M.set(row, p * n));
  let all = 0;
  for (const value of M) all += value * value; // rotations leave it as it is
  const negligible = (SMALL * all) / (n * n);
  for (let sweep = 0, rotated = true; rotated && sweep < 50; sweep++) {
    rotated = false;
    for (let p = 0; p < n; p++)
      for (let q = p + 1; q < n; q++) {
        const beside = M[p * n + q];
        if (beside * beside <= negligible) continue;
        rotated = true;
        const atP = M[p * n + p],
          atQ = M[q * n + q];
        const theta = (atQ - atP) / (2 * beside);
        const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const c = 1 / Math.sqrt(t * t + 1),
          s = t * c;
        for (let k = 0, x = p * n, y = q * n; k < n; k++, x++, y++) {
          const one = M[x],
            other = M[y];
          M[k * n + p] = M[x] = c * one - s * other;
          M[k * n + q] = M[y] = s * one + c * other;
        }
        M[p * n + p] = atP - t * beside;
        M[q * n + q] = atQ + t * beside;
        M[p * n + q] = M[q * n + p] = 0;
      }
  }
  return symmetric.map((_, k) => M[k * n + k]);
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
