/* A norm in the graph of autograd, and whether the way past torch's dispatcher is open. */

#pragma once

#include <mutex>
#include <vector>

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include "norm.h"

namespace normlib_torch {

using torch::autograd::variable_list;

constexpr const char *NAMES[] = {"layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm"};
constexpr const char *RECORDED[] = {"normlib::layer_norm", "normlib::rms_norm", "normlib::batch_norm", "normlib::group_norm",
                                    "normlib::instance_norm"};
constexpr const char *ACTIVATIONS[] = {"", "relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"};

/* Whether nothing traces, transforms or intercepts operators on these tensors, so that their values may be read here. */
inline bool is_direct(const Tensors &given)
{
    using K = c10::DispatchKey;
    constexpr c10::DispatchKeySet passed{K::CPU, K::AutogradCPU, K::ADInplaceOrView, K::AutocastCPU, K::BackendSelect};
    const auto local = c10::impl::tls_local_dispatch_key_set();
    c10::DispatchKeySet keys = local.included_;
    for (const Tensor &t : given)
        if (t.defined())
            keys = keys | t.key_set();
    if (((keys - local.excluded_).raw_repr() & ~passed.raw_repr()) || at::impl::torch_function_mode_enabled())
        return false;
    for (const Tensor &t : given)
        if (torch::autograd::isFwGradDefined(t))
            return false;
    return true;
}

/* The backward operator of torch.ops.normlib, which has derivatives of its own, and takes any tensor. */
class Operator {
public:
    Operator(const Norm &norm, const Tensors &given, const Tensor &mean, const Tensor &rstd)
        : norm_(norm), given_(given), mean_(mean), rstd_(rstd)
    {
        for (int64_t i = 0; i < given[X].dim(); ++i)
            if (norm.axes >> i & 1)
                axes_.push_back(i);
    }

    Gradients operator()(const Tensor &dy, const Tensor &dsum, bool parameters)
    {
        const auto name = std::string("normlib::") + NAMES[norm_.op / 2] + "_backward";
        const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "");
        torch::jit::Stack stack;
        for (const auto &argument : op.schema().arguments())
            stack.push_back(value(argument.name(), dy, dsum, parameters));
        op.callBoxed(stack);
        Gradients found;
        std::vector<Tensor *> results{&found.dx, &found.dweight};
        if (norm_.centered())
            results.push_back(&found.dbias);
        results.insert(results.end(), {&found.dadd, &found.dgate});
        for (size_t i = 0; i < results.size() && i < stack.size(); ++i)
            *results[i] = stack[i].toTensor();
        if (!given_[ADD].defined())
            found.dadd.reset();
        return found;
    }

private:
    c10::IValue value(const std::string &name, const Tensor &dy, const Tensor &dsum, bool parameters) const
    {
        const auto maybe = [](const Tensor &t) { return t.defined() ? c10::IValue(t) : c10::IValue(); };
        const auto word = [](int activation) { return activation ? c10::IValue(std::string(ACTIVATIONS[activation])) : c10::IValue(); };
        const auto flag = [](bool on) { return on ? c10::IValue(true) : c10::IValue(); };
        if (name == "dy") return dy;
        if (name == "x") return given_[X];
        if (name == "weight") return maybe(given_[WEIGHT]);
        if (name == "mean") return mean_;
        if (name == "rstd") return rstd_;
        if (name == "axis") return axes_;
        if (name == "channel_axis") return int64_t(norm_.channel);
        if (name == "num_groups") return norm_.groups;
        if (name == "weight_grads") return parameters;
        if (name == "dsum") return maybe(dsum);
        if (name == "bias") return maybe(given_[BIAS]);
        if (name == "add") return maybe(given_[ADD]);
        if (name == "gate") return maybe(given_[GATE]);
        if (name == "where") return maybe(given_[WHERE]);
        if (name == "activation") return word(norm_.activation);
        if (name == "gate_activation") return given_[GATE].defined() ? word(norm_.gate_activation) : c10::IValue();
        if (name == "negative_slope") return norm_.activation == NORMLIB_LEAKY_RELU ? c10::IValue(norm_.slope) : c10::IValue();
        if (name == "gate_first") return flag(norm_.gate_first);
        if (name == "round_first") return flag(norm_.round_first);
        return norm_.mode;      /* training, use_input_stats */
    }

    const Norm &norm_;
    const Tensors &given_;
    const Tensor &mean_, &rstd_;
    std::vector<int64_t> axes_;
};

enum { OF_X, OF_WEIGHT, OF_BIAS, OF_RESIDUAL, OF_ADD, OF_GATE, EDGES };

struct NormBackward : torch::autograd::Node {
    Norm norm;
    std::array<torch::autograd::SavedVariable, ROLES> saved;
    Tensor mean, rstd;

    std::string name() const override { return "NormlibBackward"; }

    void release_variables() override
    {
        std::lock_guard<std::mutex> lock(mutex_);
        for (auto &variable : saved)
            variable.reset_data();
        mean.reset();
        rstd.reset();
    }

    variable_list apply(variable_list &&grads) override
    {
        std::lock_guard<std::mutex> lock(mutex_);
        variable_list found(EDGES);
        Tensor dy = grads[0], dsum = grads.size() > 1 ? grads[1] : Tensor();
        if (!dy.defined()) {
            found[OF_X] = found[OF_RESIDUAL] = dsum;
            return found;
        }
        Tensors given;
        for (int role = 0; role < ROLES; ++role)
            given[role] = saved[role].unpack(getptr());
        if (dy.scalar_type() != given[X].scalar_type())
            dy = dy.to(given[X].scalar_type());
        const std::array<bool, 2> parameters{task_should_compute_output(OF_WEIGHT), task_should_compute_output(OF_BIAS)};
        const auto computed = gradients(dy, dsum, given, parameters);
        found[OF_X] = found[OF_RESIDUAL] = computed.dx;
        if (parameters[0])
            found[OF_WEIGHT] = computed.dweight;
        if (parameters[1])
            found[OF_BIAS] = computed.dbias;
        found[OF_ADD] = computed.dadd.defined() ? computed.dadd : dy;
        found[OF_GATE] = computed.dgate;
        for (int edge = 0; edge < EDGES; ++edge)
            if (!task_should_compute_output(edge))
                found[edge].reset();
        return found;
    }

private:
    Gradients gradients(const Tensor &dy, const Tensor &dsum, const Tensors &given, const std::array<bool, 2> &parameters)
    {
        if (!at::GradMode::is_enabled()) {
            Gradients result;
            Tensors kept = given, beside;
            beside[X] = dy;
            beside[WEIGHT] = dsum;
            if (is_direct(given) && is_direct(beside) && compute_backward(norm, dy, kept, mean, rstd, dsum, parameters, result))
                return result;
        }
        return Operator(norm, given, mean, rstd)(dy, dsum, parameters[0] || parameters[1]);
    }
};

/* Whether a fused norm is given the bias and what was added again. */
inline bool follows(const Norm &norm, const Tensors &given)
{
    return norm.activation || given[GATE].defined() || given[WHERE].defined();
}

/* 1 + weight, as the norms of Gemma multiply by. */
inline Tensor offset(const Tensor &weight)
{
    const auto wide = weight.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    if (torch::autograd::compute_requires_grad(weight) || !weight.is_contiguous())
        return weight.to(wide).add(1);
    const Tensor one = empty(weight.sizes(), wide);
    const auto fill = [&](const auto *from, auto *to) {
        for (int64_t i = 0; i < weight.numel(); ++i)
            to[i] = 1 + static_cast<std::remove_pointer_t<decltype(to)>>(from[i]);
    };
    switch (weight.scalar_type()) {
    case at::kDouble: fill(weight.const_data_ptr<double>(), one.mutable_data_ptr<double>()); break;
    case at::kFloat: fill(weight.const_data_ptr<float>(), one.mutable_data_ptr<float>()); break;
    case at::kHalf: fill(weight.const_data_ptr<at::Half>(), one.mutable_data_ptr<float>()); break;
    case at::kBFloat16: fill(weight.const_data_ptr<at::BFloat16>(), one.mutable_data_ptr<float>()); break;
    default: return weight;     /* which the kernels do not take */
    }
    return one;
}

/* A norm, recorded where gradients are wanted. False where it goes another way. */
inline bool forward(const Norm &norm, Tensors &given, Result &result)
{
    if (!is_direct(given))
        return false;
    if (norm.offset && given[WEIGHT].defined())
        given[WEIGHT] = offset(given[WEIGHT]);
    RECORD_FUNCTION(RECORDED[norm.op / 2], std::vector<c10::IValue>());
    const bool recorded = torch::autograd::compute_requires_grad(given[X], given[WEIGHT], given[BIAS], given[RESIDUAL], given[ADD], given[GATE]);
    if (!recorded)
        return compute(norm, given, {}, result);
    const Tensors own = given;
    const bool later = norm.op == NORMLIB_INSTANCE_NORM && norm.mode && own[RUNNING_MEAN].defined();
    for (const int role : {RUNNING_MEAN, RUNNING_VAR})
        if (later)
            given[role] = own[role].clone();
    if (!compute(norm, given, {at::kDouble}, result))
        return false;
    auto node = c10::make_intrusive<NormBackward>();
    node->set_next_edges(torch::autograd::collect_next_edges(own[X], own[WEIGHT], own[BIAS], own[RESIDUAL], own[ADD], own[GATE]));
    node->norm = norm;
    node->norm.mode = norm.mode || !own[RUNNING_MEAN].defined();
    node->norm.out = at::ScalarType::Undefined;
    node->mean = result.mean;
    node->rstd = result.rstd;
    torch::autograd::set_history(result.y, node);
    const auto keep = [&](int role, bool is_output = false) {
        const Tensor &t = role == X && result.sum.defined() ? result.sum : own[role];
        if (t.defined())
            node->saved[role] = torch::autograd::SavedVariable(t, is_output);
    };
    if (result.sum.defined())
        torch::autograd::set_history(result.sum, node);
    keep(X, result.sum.defined());
    keep(WEIGHT);
    keep(WHERE);
    keep(GATE);
    const bool apart = own[BIAS].defined() && (!own[WEIGHT].defined() || own[BIAS].sizes() != own[WEIGHT].sizes());
    if (follows(norm, own) || apart)
        keep(BIAS);
    if (follows(norm, own))
        keep(ADD);
    for (const int role : {RUNNING_MEAN, RUNNING_VAR})
        if (later)      /* as torch does: a checkpoint ends its second run where the last tensor is saved */
            own[role].detach().copy_(given[role]);
    return true;
}

}  // namespace normlib_torch
