/* torch's own operators for the norms on the CPU: normlib's kernels where they take the call, torch's otherwise. */

#pragma once

#include <cmath>
#include <limits>
#include <memory>
#include <tuple>

#include <ATen/ops/_fused_rms_norm_compositeimplicitautograd_dispatch.h>
#include <ATen/ops/_native_batch_norm_legit_cpu_dispatch.h>
#include <ATen/ops/native_batch_norm_backward_cpu_dispatch.h>
#include <ATen/ops/native_batch_norm_cpu_dispatch.h>
#include <ATen/ops/native_group_norm_backward_cpu_dispatch.h>
#include <ATen/ops/native_group_norm_cpu_dispatch.h>
#include <ATen/ops/native_layer_norm_backward_cpu_dispatch.h>
#include <ATen/ops/native_layer_norm_cpu_dispatch.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "norm.h"

namespace normlib_torch {

using Three = std::tuple<Tensor, Tensor, Tensor>;
using Two = std::tuple<Tensor, Tensor>;
using Maybe = std::optional<Tensor>;

inline Tensor value(const Maybe &t) { return t ? *t : Tensor(); }

inline Tensors tensors(const Tensor &input, const Maybe &weight, const Maybe &bias = {}, const Maybe &mean = {}, const Maybe &var = {})
{
    return {input, value(weight), value(bias), value(mean), value(var)};
}

/* Statistics are kept in float32 where torch keeps 16 bits or 32: gradients do not get worse by it. */
inline at::ScalarType statistics_of(const Tensor &x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

/* As the kernels take them. */
inline Tensor statistic(const Tensor &t) { return t.element_size() == 2 ? t.to(at::kFloat) : t.contiguous(); }

inline Norm trailing(int op, const Tensor &input, size_t count, double eps)
{
    Norm norm;
    norm.op = op;
    norm.eps = eps;
    norm.contiguous = op == NORMLIB_LAYER_NORM;
    if (count && input.dim() >= static_cast<int64_t>(count) && input.dim() <= MOST_AXES)
        norm.axes = ((uint64_t(1) << count) - 1) << (input.dim() - count);
    return norm;
}

inline bool ends_with(const Tensor &input, at::IntArrayRef shape)
{
    return input.dim() >= static_cast<int64_t>(shape.size()) && input.sizes().slice(input.dim() - shape.size()) == shape;
}

/* The gradients that an operator's output_mask asks for. */
inline bool gradients(const Norm &norm, const Tensor &dy, const Tensor &input, const Maybe &weight, const Tensor &mean, const Tensor &rstd,
                      const std::array<bool, 3> &mask, Gradients &result)
{
    Tensors given = tensors(input, weight);
    if (!compute_backward(norm, dy, given, mean.defined() ? statistic(mean) : mean, statistic(rstd), Tensor(), {mask[1], mask[2]}, result))
        return false;
    if (!mask[0])
        result.dx.reset();
    return true;
}

inline Three aten_layer_norm(const Tensor &input, at::IntArrayRef shape, const Maybe &weight, const Maybe &bias, double eps)
{
    Tensors given = tensors(input, weight, bias);
    const Norm norm = trailing(NORMLIB_LAYER_NORM, input, shape.size(), eps);
    Result result;
    if (norm.axes && ends_with(input, shape) && compute(norm, given, {statistics_of(input), shape.size()}, result))
        return {result.y, result.mean, result.rstd};
    return at::cpu::native_layer_norm(input, shape, weight, bias, eps);
}

inline Three aten_layer_norm_backward(const Tensor &dy, const Tensor &input, at::IntArrayRef shape, const Tensor &mean, const Tensor &rstd,
                                        const Maybe &weight, const Maybe &bias, std::array<bool, 3> mask)
{
    const Norm norm = trailing(NORMLIB_LAYER_NORM, input, shape.size(), 0);
    Gradients result;
    if (norm.axes && gradients(norm, dy, input, weight, mean, rstd, mask, result))
        return {result.dx, result.dweight, result.dbias};
    return at::cpu::native_layer_norm_backward(dy, input, shape, mean, rstd, weight, bias, mask);
}

inline Two aten_rms_norm(const Tensor &input, at::IntArrayRef shape, const Maybe &weight, std::optional<double> eps)
{
    const double least = input.scalar_type() == at::kDouble ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
    Tensors given = tensors(input, weight);
    const Norm norm = trailing(NORMLIB_RMS_NORM, input, shape.size(), eps.value_or(least));
    Result result;
    if (norm.axes && ends_with(input, shape) && compute(norm, given, {statistics_of(input), shape.size()}, result))
        return {result.y, result.rstd};
    return at::compositeimplicitautograd::_fused_rms_norm(input, shape, weight, eps);
}

/* There is none of torch's on the CPU, which takes this operator apart under autograd. */
inline Two aten_rms_norm_backward(const Tensor &dy, const Tensor &input, at::IntArrayRef shape, const Tensor &rstd, const Maybe &weight,
                                   std::array<bool, 2> mask)
{
    Gradients result;
    if (input.numel() == 0) {
        result.dx = at::zeros_like(input);
        if (mask[1] && weight)
            result.dweight = at::zeros_like(*weight);
        return {result.dx, result.dweight};
    }
    const auto dtype = input.scalar_type();
    const Tensor rows = input.dim() > MOST_AXES ? input.reshape({-1, c10::multiply_integers(shape)}) : input;
    const Maybe own = weight ? Maybe(rows.dim() == input.dim() ? *weight : weight->reshape({-1})) : weight;
    const Norm norm = trailing(NORMLIB_RMS_NORM, rows, rows.dim() == input.dim() ? shape.size() : 1, 0);
    TORCH_CHECK(gradients(norm, dy.to(dtype).reshape(rows.sizes()), rows, own ? Maybe(own->contiguous()) : own, Tensor(), rstd,
                          {mask[0], mask[1] && weight, false}, result),
                "normlib: rms_norm has no gradient for these tensors: input ", input.toString(), ", weight ",
                weight ? weight->toString() : "None");
    if (result.dx.defined())
        result.dx = result.dx.view_as(input);
    if (result.dweight.defined())
        result.dweight = result.dweight.view_as(*weight);
    return {result.dx, result.dweight};
}

inline Norm of_groups(int64_t groups, double eps)
{
    Norm norm;
    norm.op = NORMLIB_GROUP_NORM;
    norm.groups = groups;
    norm.eps = eps;
    return norm;
}

inline Three aten_group_norm(const Tensor &input, const Maybe &weight, const Maybe &bias, int64_t samples, int64_t channels,
                               int64_t positions, int64_t groups, double eps)
{
    Tensors given = tensors(input, weight, bias);
    Result result;
    if (input.dim() > 1 && input.size(0) == samples && input.size(1) == channels &&
        compute(of_groups(groups, eps), given, {statistics_of(input)}, result))
        return {result.y, result.mean, result.rstd};
    return at::cpu::native_group_norm(input, weight, bias, samples, channels, positions, groups, eps);
}

inline Three aten_group_norm_backward(const Tensor &dy, const Tensor &input, const Tensor &mean, const Tensor &rstd, const Maybe &weight,
                                        int64_t samples, int64_t channels, int64_t positions, int64_t groups, std::array<bool, 3> mask)
{
    Gradients result;
    if (input.dim() > 1 && input.size(0) == samples && input.size(1) == channels &&
        gradients(of_groups(groups, 0), dy, input, weight, mean, rstd, mask, result))
        return {result.dx, result.dweight, result.dbias};
    return at::cpu::native_group_norm_backward(dy, input, mean, rstd, weight, samples, channels, positions, groups, mask);
}

inline Norm of_channels(bool training, double momentum, double eps)
{
    Norm norm;
    norm.op = NORMLIB_BATCH_NORM;
    norm.mode = training;
    norm.momentum = momentum;
    norm.eps = eps;
    return norm;
}

/* 1 / sqrt(var + eps), where var is given. */
inline Tensor given_rstd(const Tensor &var, double eps)
{
    const Tensor given = var.scalar_type() == at::kFloat || var.scalar_type() == at::kDouble ? var.contiguous() : var.to(at::kDouble);
    const Tensor rstd = empty({var.numel()}, at::kDouble);
    double *to = rstd.mutable_data_ptr<double>();
    for (int64_t i = 0; i < var.numel(); ++i)
        to[i] = 1 / std::sqrt((given.scalar_type() == at::kFloat ? given.const_data_ptr<float>()[i] : given.const_data_ptr<double>()[i]) + eps);
    return rstd;
}

inline Three aten_batch_norm(const Tensor &input, const Maybe &weight, const Maybe &bias, const Maybe &running_mean, const Maybe &running_var,
                               bool training, double momentum, double eps)
{
    Tensors given = tensors(input, weight, bias, running_mean, running_var);
    Result result;
    if ((training || given[RUNNING_MEAN].defined()) &&
        compute(of_channels(training, momentum, eps), given, training ? Wanted{statistics_of(input)} : Wanted{}, result)) {
        if (training)
            return {result.y, result.mean, result.rstd};
        return {result.y, empty({0}, statistics_of(input)), empty({0}, statistics_of(input))};
    }
    return at::cpu::native_batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps);
}

inline Three aten_batch_norm_backward(const Tensor &dy, const Tensor &input, const Maybe &weight, const Maybe &running_mean,
                                        const Maybe &running_var, const Maybe &save_mean, const Maybe &save_invstd, bool training, double eps,
                                        std::array<bool, 3> mask)
{
    Tensor mean = value(save_mean), rstd = value(save_invstd);
    if (!training && running_mean && running_var) {
        mean = running_mean->contiguous();
        rstd = given_rstd(*running_var, eps);
    }
    Gradients result;
    if (mean.defined() && rstd.defined() && gradients(of_channels(training, 0, eps), dy, input, weight, mean, rstd, mask, result))
        return {result.dx, result.dweight, result.dbias};
    return at::cpu::native_batch_norm_backward(dy, input, weight, running_mean, running_var, save_mean, save_invstd, training, eps, mask);
}

inline Three aten_batch_norm_legit(const Tensor &input, const Maybe &weight, const Maybe &bias, Tensor &running_mean, Tensor &running_var,
                                     bool training, double momentum, double eps)
{
    return aten_batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps);
}

inline Three aten_batch_norm_of_batch(const Tensor &input, const Maybe &weight, const Maybe &bias, bool training, double momentum, double eps)
{
    return aten_batch_norm(input, weight, bias, {}, {}, training, momentum, eps);
}

/* The registrations; they end with it. */
inline std::unique_ptr<torch::Library> &installed()
{
    static std::unique_ptr<torch::Library> library;
    return library;
}

/* torch warns of kernels that are replaced, which is what was asked for. */
struct Silent : c10::WarningHandler {
    void process(const c10::Warning &) override {}
};

inline void install()
{
    Silent silent;
    const c10::WarningUtils::WarningHandlerGuard guard(&silent);
    auto library = std::make_unique<torch::Library>(torch::Library::IMPL, "aten", c10::DispatchKey::CPU, __FILE__, __LINE__);
    library->impl("native_layer_norm", TORCH_FN(aten_layer_norm));
    library->impl("native_layer_norm_backward", TORCH_FN(aten_layer_norm_backward));
    library->impl("_fused_rms_norm", TORCH_FN(aten_rms_norm));
    library->impl("_fused_rms_norm_backward", TORCH_FN(aten_rms_norm_backward));
    library->impl("native_group_norm", TORCH_FN(aten_group_norm));
    library->impl("native_group_norm_backward", TORCH_FN(aten_group_norm_backward));
    library->impl("native_batch_norm", TORCH_FN(aten_batch_norm));
    library->impl("native_batch_norm_backward", TORCH_FN(aten_batch_norm_backward));
    library->impl("_native_batch_norm_legit", TORCH_FN(aten_batch_norm_legit));
    library->impl("_native_batch_norm_legit.no_stats", TORCH_FN(aten_batch_norm_of_batch));
    installed() = std::move(library);
}

inline void uninstall() { installed().reset(); }

}  // namespace normlib_torch
