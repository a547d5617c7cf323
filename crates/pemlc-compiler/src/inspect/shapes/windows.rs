//! Operators that slide a window over an image.

use super::dim::Dim;
use super::fact::Fact;
use super::walk::Call;

/// Facts of the outputs, if the operator is one of these.
pub(super) fn infer(call: Call<'_>, inputs: &[Option<Fact>]) -> Option<Vec<Fact>> {
    let input = |place: usize| inputs.get(place).cloned().flatten().unwrap_or_default();
    let image = input(0);
    let shape = match call.node.operator.as_str() {
        "Conv" => {
            let weight = input(1);
            let kernel = weight.shape.as_deref().and_then(|shape| shape.get(2..)).map(<[Dim]>::to_vec);
            slide(call, &image, weight.dim(0), kernel)
        }
        "MaxPool" | "AveragePool" => {
            let kernel = call.ints("kernel_shape").map(|sizes| sizes.iter().copied().map(Dim::Fixed).collect());
            let shape = slide(call, &image, image.dim(1), kernel);
            // The second output of MaxPool says where the largest values were.
            let places = Fact::new(crate::inspect::number::DataType::I64, shape.clone());
            return Some(vec![Fact::new(image.dtype, shape), places]);
        }
        "GlobalAveragePool" | "GlobalMaxPool" => image.shape.as_deref().filter(|shape| shape.len() >= 2).map(|shape| {
            let ones = vec![Dim::Fixed(1); shape.len() - 2];
            [&shape[..2], &ones].concat()
        }),
        _ => return None,
    };
    Some(vec![Fact::new(image.dtype, shape)])
}

/// Batch and channels, then what is left of each dimension of the image.
fn slide(call: Call<'_>, image: &Fact, channels: Dim, kernel: Option<Vec<Dim>>) -> Option<Vec<Dim>> {
    let (shape, kernel) = (image.shape.as_deref()?, kernel?);
    let space = shape.get(2..).filter(|space| space.len() == kernel.len())?;
    let sizes = space.iter().zip(&kernel).enumerate();
    let sizes = sizes.map(|(axis, (size, kernel))| match (size, kernel) {
        (Dim::Fixed(size), Dim::Fixed(kernel)) => places(call, axis, (*size, *kernel), space.len()),
        _ => None,
    });
    let sizes = sizes.map(|size| size.map_or(Dim::Unknown, Dim::Fixed));
    Some([shape[0].clone(), channels].into_iter().chain(sizes).collect())
}

/// How many places a window has along `axis`; none where the file makes no sense.
fn places(call: Call<'_>, axis: usize, (size, kernel): (i64, i64), axes: usize) -> Option<i64> {
    let at = |name: &str, place: usize, default: i64| match call.ints(name) {
        Some(values) => values.get(place).copied(),
        None => Some(default),
    };
    let (stride, dilation) = (at("strides", axis, 1)?, at("dilations", axis, 1)?);
    let round_up = call.int("ceil_mode").unwrap_or(0) != 0;
    let pads = match call.text("auto_pad").unwrap_or("NOTSET") {
        "NOTSET" => at("pads", axis, 0)?.checked_add(at("pads", axis.checked_add(axes)?, 0)?)?,
        "VALID" => 0,
        // As many places as strides fit into the image.
        _ => return size.checked_add(stride.checked_sub(1)?)?.checked_div(stride).filter(|_| stride > 0 && size >= 0),
    };
    let window = dilation.checked_mul(kernel.checked_sub(1)?)?.checked_add(1)?;
    let room = size.checked_add(pads)?.checked_sub(window)?;
    if stride <= 0 || room < 0 {
        return None;
    }
    let room = if round_up { room.checked_add(stride - 1)? } else { room };
    (room / stride).checked_add(1)
}
