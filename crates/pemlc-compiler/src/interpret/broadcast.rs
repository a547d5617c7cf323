//! Row-major index arithmetic with broadcasting.

/// Row-major strides of `shape`.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// For every place of `result` in row-major order, the place in a tensor of `shape` that broadcasts to it.
pub(super) fn places(shape: &[usize], result: &[usize]) -> Vec<usize> {
    let padding = result.len() - shape.len();
    let own = strides(shape);
    let steps: Vec<usize> = (0..result.len())
        .map(|axis| if axis < padding || shape[axis - padding] == 1 { 0 } else { own[axis - padding] })
        .collect();
    walk(result, &steps)
}

/// The places that an index walking `shape` in row-major order visits when axis `i` advances by `steps[i]`.
pub(super) fn walk(shape: &[usize], steps: &[usize]) -> Vec<usize> {
    let count: usize = shape.iter().product();
    let mut places = Vec::with_capacity(count);
    let mut index = vec![0; shape.len()];
    let mut place = 0;
    for _ in 0..count {
        places.push(place);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            place += steps[axis];
            if index[axis] < shape[axis] {
                break;
            }
            place -= steps[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    places
}
