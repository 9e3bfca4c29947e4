# The cuda target: kernels compiled by nvcc, matrix products by cuBLASLt. ptxas' report of registers, shared memory and
# spills is kept beside each object as *.ptxas.
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v nvcc)))
NVCC := $(CUDA_HOME)/bin/nvcc
CC   := gcc

# Machine code for the GPUs that are visible, else for the usual ones; and PTX, which newer GPUs compile when a program starts.
# 90a is Hopper with instructions that no other GPU has. PTX for it would run nowhere else, so the PTX is that of the last
# architecture without a letter: it costs little time, as nvcc makes its own machine code from it.
VISIBLE := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | \
             sed -n 's/^\([0-9]*\)\.\([0-9]\)$$/\1\2/p' | sort -nu)
ARCHS   ?= $(or $(VISIBLE:90=90a),80 89 90a)
NUMBERS := $(patsubst %f,%,$(patsubst %a,%,$(ARCHS)))
PTX     := $(or $(lastword $(filter-out %a %f,$(ARCHS))),$(lastword $(NUMBERS)))
KNOWN   := $(filter-out 5% 6% 7%,$(patsubst compute_%,%,$(shell $(NVCC) --list-gpu-arch 2>/dev/null)))
UNKNOWN := $(if $(KNOWN),$(filter-out $(KNOWN),$(NUMBERS)))
ifneq ($(UNKNOWN),)
$(error ARCHS: the kernels need 80 or newer, and $(NVCC) knows $(KNOWN), but not $(UNKNOWN). A GPU that is newer than all of \
    these runs what ARCHS=$(lastword $(KNOWN)) makes)
endif

GENCODE    := $(foreach arch,$(ARCHS),-gencode=arch=compute_$(arch),code=sm_$(arch)) \
              -gencode=arch=compute_$(PTX),code=compute_$(PTX)
CFLAGS     := -g -O3 -fPIC
NVCCFLAGS  := -std=c++17 -O3 -lineinfo --threads 2 $(GENCODE) -Xptxas -v --use_fast_math \
              $(if $(WERROR),-Werror all-warnings) -Xcompiler -fPIC,-Wall,-Wextra

LINK_NCCL := $(call nvidia,link,nccl.h,nccl)

NCCL     ?= $(if $(LINK_NCCL),1,0)
DEFINES  += -DLLMC_TARGET_CUDA $(if $(filter 1,$(NCCL)),-DLLMC_WITH_NCCL)
INCLUDES += -I$(CUDA_HOME)/include $(call nvidia,compile,cublasLt.h,cublasLt) \
            $(if $(filter 1,$(NCCL)),$(call nvidia,compile,nccl.h,nccl))
LIBS     := $(or $(call nvidia,link,cuda_runtime.h,cudart),-lcudart) $(or $(call nvidia,link,cublasLt.h,cublasLt),-lcublasLt) \
            $(if $(filter 1,$(NCCL)),$(or $(LINK_NCCL),-lnccl)) -lcjson -lpcre2-8 -lm
LINK     := g++
SHARED_FLAGS := -Wl,-Bsymbolic
LINK_RPATH := -Wl,-rpath,'$$ORIGIN'
TARGET_SOURCES := $(sort $(wildcard llmc/device/*.cu))

# a change of architectures rebuilds
$(BUILD)/archs: FORCE
	@mkdir -p $(@D) && echo '$(ARCHS)' | cmp -s - $@ || echo '$(ARCHS)' >$@

$(BUILD)/obj/%.cu.o: %.cu $(MAKEFILES_USED) $(BUILD)/archs
	@mkdir -p $(@D)
	$(call step,NVCC)$(NVCC) $(NVCCFLAGS) $(DEFINES) $(INCLUDES) -MMD -MP -c $< -o $@ > $@.ptxas 2>&1 || { cat $@.ptxas >&2; exit 1; }
