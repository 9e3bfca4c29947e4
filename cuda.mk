# The cuda target: kernels compiled by nvcc, matrix products by cuBLASLt. ptxas' report of registers, shared memory and
# spills is kept beside each object as *.ptxas.
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v nvcc)))
NVCC := $(CUDA_HOME)/bin/nvcc
CC   := gcc

GENCODE    := $(foreach arch,$(ARCHS),-gencode=arch=compute_$(arch),code=sm_$(arch))
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

$(BUILD)/obj/%.cu.o: %.cu $(MAKEFILES_USED)
	@mkdir -p $(@D)
	$(call step,NVCC)$(NVCC) $(NVCCFLAGS) $(DEFINES) $(INCLUDES) -MMD -MP -c $< -o $@ > $@.ptxas 2>&1 || { cat $@.ptxas >&2; exit 1; }
