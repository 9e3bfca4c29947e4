# The cuda target's host code on a machine without a GPU: C files and llmc/device/*.cu are compiled as for cuda, against
# NVIDIA's own headers; kernels and the CPU's stand-in for CUDA are those of the cpu target, and the libraries of NVIDIA
# are stand-ins (dev/standins) that read what they are given and refuse what the real ones refuse.
CC  := gcc
CXX := g++

# what the cpu target builds for us, and its names that stand-ins replace: X becomes host_X
CPU_BUILD := build/cpu$(VARIANT)
REPLACED  := cudaMalloc cudaFree cudaMallocHost cudaHostAlloc cudaFreeHost cudaMemcpy cudaMemcpyAsync cudaMemGetInfo cudaGetDeviceCount \
             cudaSetDevice cudaGetDevice cudaGetDeviceProperties cudaDeviceGetPCIBusId cudaGetLastError cudaGetErrorString matmul matmul_prepare \
             matmul_same_rows matmul_take_workspace matmul_use_algorithms

CUDA_HOME    ?= $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v nvcc)))
CUDA_INCLUDE := $(call nvidia,compile,cublasLt.h)
NCCL_INCLUDE := $(call nvidia,compile,nccl.h)
ifeq ($(CUDA_INCLUDE),)
$(error TARGET=cuda-on-cpu: scripts/find_nvidia.sh finds no cublasLt.h, which PyTorch's packages have (scripts/setup.sh test))
endif

OPTIMIZE := $(if $(SANITIZE),-O1 -fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer,$(if $(COVERAGE),-O1 --coverage,-O3))
CFLAGS   := -g $(OPTIMIZE) -fPIC
CXXFLAGS := -std=c++17 $(CFLAGS)

NCCL     ?= $(if $(and $(wildcard dev/standins/nccl.cpp),$(NCCL_INCLUDE)),1,0)
# cuDNN's attention knows bf16 alone
USE_CUDNN ?= $(if $(and $(filter bf16,$(PRECISION)),$(call nvidia,link,cudnn.h,cudnn),$(call nvidia,compile,cudnn_frontend.h)),1,0)
DEFINES  += -DLLMC_TARGET_CUDA $(if $(filter 1,$(NCCL)),-DLLMC_WITH_NCCL)
INCLUDES += $(CUDA_INCLUDE) $(if $(filter 1,$(NCCL)),$(NCCL_INCLUDE))
LIBS     := -ldnnl -lboost_context -lcjson -lpcre2-8 -lm
LINK     := g++ -fopenmp $(if $(COVERAGE),--coverage) $(if $(SANITIZE),-fsanitize=$(SANITIZE))
# the library keeps to its own cudaMalloc and so on, also in a process that has NVIDIA's loaded (PyTorch)
SHARED_FLAGS := -Wl,-Bsymbolic
LINK_RPATH := -Wl,-rpath,'$$ORIGIN'
STANDINS := $(filter-out $(if $(filter 1,$(USE_CUDNN)),,dev/standins/cudnn%) $(if $(filter 1,$(NCCL)),,dev/standins/nccl%),$(sort $(wildcard dev/standins/*.cpp)))
TARGET_SOURCES := $(sort $(wildcard llmc/device/*.cu)) $(STANDINS) $(sort $(wildcard llmc/cpu/*.cpp llmc/device/*.cpp))

$(BUILD)/obj/%.cu.o: %.cu $(MAKEFILES_USED)
	@mkdir -p $(@D)
	$(call step,CXX)$(CXX) -x c++ $(WARNINGS) $(CXXFLAGS) $(DEFINES) $(INCLUDES) -MMD -MP -c $< -o $@

$(BUILD)/obj/%.cpp.o: %.cpp $(MAKEFILES_USED)
	@mkdir -p $(@D)
	$(call step,CXX)$(CXX) $(WARNINGS) $(CXXFLAGS) $(DEFINES) $(INCLUDES) -MMD -MP -c $< -o $@

CPU_OBJECTS := $(patsubst %,$(CPU_BUILD)/obj/%.o,$(KERNEL_SOURCES) $(wildcard llmc/cpu/*.cpp llmc/device/*.cpp))

.PHONY: cpu-objects
cpu-objects:
	@+$(MAKE) TARGET=cpu BUILD=$(CPU_BUILD) NCCL=0 USE_CUDNN=0 device-objects

$(CPU_OBJECTS): cpu-objects
	@:

TAKE = $(call step,TAKE)mkdir -p $(@D) && objcopy $(foreach name,$(REPLACED),--redefine-sym $(name)=host_$(name)) $< $@

$(BUILD)/obj/llmc/kernels/%.o: $(CPU_BUILD)/obj/llmc/kernels/%.o $(MAKEFILES_USED)
	$(call step,TAKE)mkdir -p $(@D) && cp $< $@

$(BUILD)/obj/llmc/cpu/%.o: $(CPU_BUILD)/obj/llmc/cpu/%.o $(MAKEFILES_USED)
	$(TAKE)

$(BUILD)/obj/llmc/device/%.cpp.o: $(CPU_BUILD)/obj/llmc/device/%.cpp.o $(MAKEFILES_USED)
	$(TAKE)

# Programs of the tests: make TARGET=cuda-on-cpu build/cuda-on-cpu/tests/standins/launch
$(BUILD)/tests/%: $(BUILD)/obj/tests/%.cu.o $(BUILD)/libllmc.so
	@mkdir -p $(@D)
	$(call step,LINK)$(LINK) -o $@ $< -L$(BUILD) -lllmc -Wl,-rpath,'$$ORIGIN/../..'

.PRECIOUS: $(BUILD)/obj/tests/%.cu.o
