# The cuda target: kernels compiled by nvcc, matrix products by cuBLASLt. ptxas' report of registers, shared memory and
# spills is kept beside each object as *.ptxas.
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v nvcc)))
NVCC := $(CUDA_HOME)/bin/nvcc
CC   := gcc

GENCODE    := $(foreach arch,$(ARCHS),-gencode=arch=compute_$(arch),code=sm_$(arch))
CFLAGS     := -g -O3 -fPIC
NVCCFLAGS  := -std=c++17 -O3 -lineinfo --threads 2 $(GENCODE) -Xptxas -v --use_fast_math -Werror all-warnings \
              -Xcompiler -fPIC,-Wall,-Wextra

NCCL     ?= $(if $(wildcard $(CUDA_HOME)/include/nccl.h /usr/include/nccl.h),1,0)
DEFINES  += -DLLMC_TARGET_CUDA $(if $(filter 1,$(NCCL)),-DLLMC_WITH_NCCL)
INCLUDES += -I$(CUDA_HOME)/include
LIBS     := -L$(CUDA_HOME)/lib64 -lcudart -lcublasLt -lcjson -lpcre2-8 -lm $(if $(filter 1,$(NCCL)),-lnccl)
LINK     := g++
SHARED_FLAGS := -Wl,-Bsymbolic -Wl,-rpath,$(CUDA_HOME)/lib64
LINK_RPATH := -Wl,-rpath,'$$ORIGIN' -Wl,-rpath,$(CUDA_HOME)/lib64
TARGET_SOURCES := $(sort $(wildcard llmc/device/*.cu))

$(BUILD)/obj/%.cu.o: %.cu $(MAKEFILES_USED)
	@mkdir -p $(@D)
	$(call step,NVCC)$(NVCC) $(NVCCFLAGS) $(DEFINES) $(INCLUDES) -MMD -MP -c $< -o $@ > $@.ptxas 2>&1 || { cat $@.ptxas >&2; exit 1; }
