"""Operators that are left out of a count of FLOPs, by name: whatever is in no list and has no formula is unknown.

Left out is what costs a few operations for each number that it reads or writes: elementwise work, sums and norms,
normalization, pooling, interpolation, losses, copies, lookups, comparisons and random numbers. Operators that torch
tags as pointwise, and views, need no mention.
"""

import functools
import re
from typing import Any

import torch


@functools.cache
def is_left_out(packet: Any) -> bool:
    """Whether an operator does no more than elementwise work, so that counts leave it out.

    Args:
        packet: An operator with all its overloads (`torch._ops.OpOverloadPacket`), none of its own composite parts.
    """
    if _has_tag(packet):
        return True
    namespace, name = packet._qualified_op_name.split("::")  # noqa: SLF001 - its name in torch
    if namespace not in {"aten", "prims"}:
        return namespace in {"prim", "profiler"}
    stem = _VARIANT.sub("", name)
    return (
        name in _LEFT_OUT
        or (namespace == "prims" and name in _LEFT_OUT_PRIMS)
        or stem in _LEFT_OUT
        or (name.startswith("_foreach_") and stem != "_foreach_mm")
        or _has_tag(getattr(torch.ops.aten, stem, None))
    )


def _has_tag(packet: Any) -> bool:
    """Whether torch calls any overload of an operator pointwise or a view; not all of them carry the tag."""
    if packet is None:
        return False
    overloads = [getattr(packet, name) for name in packet.overloads()]
    return any(torch.Tag.pointwise in overload.tags or overload.is_view for overload in overloads)


_VARIANT = re.compile(r"(_backward(_data|_elemt|_reduce|_impl|_jvp)?|_jvp|_copy|_functional)?_?$")
"""Endings of an operator's gradient, of its variant without views, and of its variant in place."""

_LEFT_OUT_PRIMS = frozenset(
    [
        "broadcast_in_dim",
        "bessel_i0",
        "bessel_i1",
        "bessel_j0",
        "bessel_j1",
        "cbrt",
        "collapse",
        "collapse_view",
        "conj",
        "convert_element_type",
        "device_put",
        "empty_permuted",
        "erf_inv",
        "inductor_seeds",
        "iota",
        "maximum_value",
        "minimum_value",
        "ndtri",
        "shift_left",
        "shift_right_arithmetic",
        "split_dim",
        "view_element_type",
        "view_of",
        "xor_sum",
        "zeta",
    ]
)
"""Primitives that torch's derivatives in forward mode are made of, where they have no namesake among its operators."""

_LEFT_OUT = frozenset(
    name
    for names in (
        # made, copied, moved, looked up
        """_chunk_cat _coalesce _coalesced _conj _copy_from _copy_from_and_resize _cudnn_rnn_flatten_weight
        _efficientzerotensor _fw_primal _has_same_storage_numel _index_put_impl _indices _lazy_clone
        _local_scalar_dense _make_dual _neg_view _new_zeros_with_same_feature_meta _nnz _pack_padded_sequence
        _pin_memory _reshape _reshape_alias _resize_output _sparse_coo_tensor_with_dims
        _sparse_coo_tensor_with_dims_and_tensors _stack _to _to_copy _to_dense _to_sparse _unsafe_index
        _unsafe_index_put _unsafe_masked_index _unsafe_masked_index_put_accumulate _unsafe_view _values
        affine_grid_generator alias arange as_strided as_strided_scatter bartlett_window blackman_window
        block_diag cat channel_shuffle clone col2im complex constant_pad_nd copy cudnn_affine_grid_generator
        dense_dim dequantize detach diag_embed diagonal diagonal_scatter embedding embedding_dense
        embedding_renorm empty empty_like empty_permuted empty_strided expand eye fft_fftfreq fft_rfftfreq
        fill flip from_file full full_like gather hamming_window hann_window im2col index index_add
        index_copy index_fill index_put index_reduce index_select indices is_coalesced is_pinned is_same_size
        is_set_to kaiser_window lift lift_fresh linspace logspace lu_unpack masked_fill masked_scatter
        masked_select narrow new_empty new_empty_strided new_full new_ones new_zeros nonzero nonzero_static
        ones ones_like permute pixel_shuffle pixel_unshuffle polar put range record_stream reflection_pad1d
        reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d
        replication_pad3d resize resize_as roll rot90 scalar_tensor scatter scatter_add scatter_reduce select
        select_scatter set shallow_copy_data slice slice_scatter sparse_coo_tensor sparse_dim sparse_mask
        sparse_resize split split_with_sizes squeeze stack t take transpose tril tril_indices triu
        triu_indices unbind unfold unsafe_split unsafe_split_with_sizes unsqueeze values view view_as_complex
        view_as_real zero zeros zeros_like""",
        # asked, compared, ordered, counted
        """_aminmax _assert_async _assert_scalar _assert_tensor_metadata _cummax_helper _cummin_helper
        _functional_assert_async _functional_assert_scalar _fused_sdp_choice _is_all_true _is_any_true
        _linalg_check_errors _print _unique _unique2 _use_cudnn_ctc_loss all allclose amax amin aminmax any
        argmax argmin bincount bucketize count_nonzero cummax cummin equal hash_tensor histc isin kthvalue
        max median min mode nanmedian searchsorted sort sym_constrain_range sym_constrain_range_for_size topk
        unique_consecutive unique_dim unique_dim_consecutive""",
        # random
        """_cudnn_init_dropout_state _dirichlet_grad _fused_dropout _masked_scale _philox_normal _philox_uniform
        _sample_dirichlet _standard_gamma _standard_gamma_grad bernoulli binomial cauchy exponential
        geometric log_normal multinomial native_dropout normal poisson rand rand_like randint randint_like
        randn randn_like random randperm rrelu_with_noise uniform""",
        # elementwise, where torch's tag is missing
        """_add_relu _amp_foreach_non_finite_check_and_unscale _amp_update_scale _fused_adagrad _fused_adam _fused_adamw
        _fused_sgd _prelu_kernel _thnn_fused_gru_cell _thnn_fused_lstm_cell abs addcdiv addcmul copysign elu
        eq fake_quantize_per_channel_affine_cachemask fake_quantize_per_tensor_affine_cachemask floor_divide
        gcd ge gelu glu gt hardshrink hardsigmoid hardswish hardtanh heaviside lcm le leaky_relu linalg_cross
        log_sigmoid log_sigmoid_forward lt mish ne prelu sigmoid softplus softshrink tanh threshold""",
        # sums, norms, products along an axis, normalization
        """_batch_norm_no_update _batch_norm_with_update _fused_rms_norm _log_softmax _logcumsumexp _masked_softmax
        _native_batch_norm_legit _native_batch_norm_legit_no_training _safe_softmax _softmax
        _weight_norm_interface batch_norm batch_norm_elemt batch_norm_gather_stats
        batch_norm_gather_stats_with_counts batch_norm_stats batch_norm_update_stats cudnn_batch_norm cumprod
        cumsum dist linalg__powsum linalg_vector_norm log_softmax logcumsumexp logsumexp mean
        miopen_batch_norm nansum native_batch_norm native_group_norm native_layer_norm native_norm norm prod
        renorm softmax std std_mean sum trace var var_mean""",
        # pooling and interpolation
        """_adaptive_avg_pool2d _adaptive_avg_pool3d _upsample_bicubic2d_aa _upsample_bilinear2d_aa
        _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d adaptive_avg_pool1d
        adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d
        avg_pool3d cudnn_grid_sampler fractional_max_pool2d fractional_max_pool3d grid_sampler_2d
        grid_sampler_3d max_pool2d max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d
        mkldnn_adaptive_avg_pool2d mkldnn_max_pool2d mkldnn_max_pool3d upsample_bicubic2d upsample_bilinear2d
        upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d""",
        # losses
        """binary_cross_entropy binary_cross_entropy_with_logits huber_loss mse_loss multi_margin_loss
        multilabel_margin_loss multilabel_margin_loss_forward nll_loss nll_loss2d nll_loss2d_forward
        nll_loss_forward smooth_l1_loss soft_margin_loss""",
    )
    for name in names.split()
)
