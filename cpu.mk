# The cpu target: kernels compiled by g++ against the CPU's stand-in for CUDA (llmc/cpu), matrix products by oneDNN.
CC  := gcc
CXX := g++

OPTIMIZE := $(if $(SANITIZE),-O1 -fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer,-O3 -fno-math-errno -fno-trapping-math)
CFLAGS   := -g -fPIC $(OPTIMIZE) -fopenmp

# Kernels, and what they run on, are compiled for a level of x86-64: MACHINE, by default the highest that the processor here
# has. Everything else is compiled for any. With MACHINE=portable the kernels are a library of their own for each level, of which
# the dynamic linker (glibc 2.33 and later) takes the best one wherever the program is started.
LEVELS := x86-64-v4 x86-64-v3 x86-64
macros = $(shell $(CC) -march=$(1) -dM -E -x c /dev/null 2>/dev/null | sed -n 's/^.define \(__[A-Z0-9_]*__\) 1$$/\1/p')
has = $(if $(filter-out $(NATIVE),$(call macros,$(1))),,$(1))
ifeq ($(ARCHITECTURE),x86_64)
ifeq ($(origin MACHINE),undefined)
NATIVE  := $(call macros,native)
MACHINE := $(firstword $(foreach level,$(LEVELS),$(call has,$(level))))
endif
ifeq ($(filter portable $(LEVELS),$(MACHINE)),)
$(error MACHINE is '$(MACHINE)', expected portable or one of: $(LEVELS))
endif
endif
LEVEL := $(patsubst portable,x86-64,$(MACHINE))

# A copy of a vector in one piece, where the compiler (gcc 12 and later, x86) would make two: read as a whole, pieces are waited for
WHOLE_COPIES := -mmove-max=512 -mstore-max=512
WHOLE_COPIES := $(shell $(CXX) $(WHOLE_COPIES) -E -x c++ /dev/null >/dev/null 2>&1 && echo '$(WHOLE_COPIES)')

# initial-exec: thread-local state (the running kernel thread) is read at an offset, without a call.
# no-psabi: no vector is passed between files, so how it would be passed does not matter
CXXFLAGS := -std=c++17 $(CFLAGS) $(LEVEL:%=-march=%) -DLLMC_MACHINE='"$(or $(LEVEL),$(ARCHITECTURE))"' -ftls-model=initial-exec -Wno-psabi $(WHOLE_COPIES)

NCCL     := 0
DEFINES  += -DLLMC_TARGET_CPU
INCLUDES += -Illmc/cpu
KERNEL_LIBS := -ldnnl -lboost_context -lm
LIBS     := $(KERNEL_LIBS) -lcjson -lpcre2-8
LINK     := $(CXX) -fopenmp $(if $(SANITIZE),-fsanitize=$(SANITIZE))
# the library keeps to its own cudaMalloc and so on, also in a process that has NVIDIA's loaded (PyTorch)
SHARED_FLAGS := -Wl,-Bsymbolic
LINK_RPATH := -Wl,-rpath,'$$ORIGIN'
TARGET_SOURCES := $(sort $(wildcard llmc/cpu/*.cpp)) $(wildcard llmc/device/*.cpp)

$(BUILD)/obj/%.cu.o: %.cu $(MAKEFILES_USED) $(BUILD)/settings
	@mkdir -p $(@D)
	$(call step,CXX)$(CXX) -x c++ $(WARNINGS) -Wno-unknown-pragmas $(CXXFLAGS) $(DEFINES) $(INCLUDES) -MMD -MP -c $< -o $@

# The scheduler tells ThreadSanitizer what orders threads and is not watched itself.
ifneq ($(filter thread,$(SANITIZE)),)
$(BUILD)/obj/llmc/cpu/%.cpp.o: CXXFLAGS += -fno-sanitize=thread -DLLMC_HOST_RACES
endif

$(BUILD)/obj/%.cpp.o: %.cpp $(MAKEFILES_USED) $(BUILD)/settings
	@mkdir -p $(@D)
	$(call step,CXX)$(CXX) $(WARNINGS) $(CXXFLAGS) $(DEFINES) $(INCLUDES) -MMD -MP -c $< -o $@

# It looks before anything else runs whether the processor has what the others are compiled for.
ifneq ($(filter x86-64%,$(LEVEL)),)
$(BUILD)/obj/llmc/cpu/processor.cpp.o: CXXFLAGS += -march=x86-64
endif

ifeq ($(MACHINE),portable)
KERNELS := $(BUILD)/libllmc_kernels.so
HIGHER  := $(filter-out $(LEVEL),$(LEVELS))
LIBS    += -L$(BUILD) -lllmc_kernels
SHARED_FLAGS += $(LINK_RPATH)
all: $(HIGHER:%=$(BUILD)/glibc-hwcaps/%/libllmc_kernels.so)

$(HIGHER:%=$(BUILD)/glibc-hwcaps/%/libllmc_kernels.so): $(BUILD)/glibc-hwcaps/%/libllmc_kernels.so: FORCE
	@+$(MAKE) BUILD=$(BUILD)/glibc-hwcaps/$* MACHINE=$* $@
endif

# Programs of the tests: a kernel beside the CPU target, without the library (make build/cpu/tests/cpu/planted/NAME).
$(BUILD)/tests/%: $(BUILD)/obj/tests/%.cu.o $(filter $(BUILD)/obj/llmc/cpu/% %/matrix_cpu.cpp.o,$(TARGET_SOURCES:%=$(BUILD)/obj/%.o))
	@mkdir -p $(@D)
	$(call step,LINK)$(LINK) -o $@ $^ $(LIBDIRS) -lboost_context

.PRECIOUS: $(BUILD)/obj/tests/%.cu.o
