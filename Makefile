# Builds libllmc and its programs for one of two targets.
#
#   make                      cuda where a GPU is visible, else cpu
#   make TARGET=cpu|cuda      choose
#   make TARGET=cuda-on-cpu   for developers without a GPU: the cuda target's host code, with stand-ins for NVIDIA's libraries
#   make PRECISION=bf16|fp32  type of parameters and activations (fp32 serves the exact tests)
#   make SANITIZE=address,undefined   (cpu) checked build
#   make SANITIZE=thread      (cpu) build that finds races between the threads of a kernel
#   make COVERAGE=1           (cuda-on-cpu) counts which lines run, for gcov; in a folder with -coverage behind it
#   make MACHINE=portable     (cpu) runs on any x86-64, at the speed of the processor it is started on; into a folder with
#                             -portable behind it. Default: this processor's level; or x86-64, x86-64-v3, x86-64-v4
#   make OPTIMIZE=-O0 BUILD=build/cpu-debug   (cpu) build for a debugger: docs/kernels.md
#   make ARCHS="80 89 90a"    (cuda) GPU architectures; default: those of the visible GPUs, else these three
#   make MPI=0|1 NCCL=0|1     how ranks exchange; default: 1 where mpicc is found, and NCCL by scripts/find_nvidia.sh (NCCL: cuda only)
#   make USE_CUDNN=1          (cuda) attention by cuDNN too: see cudnn.mk
#   make WERROR=1             a warning is an error, as in scripts/test.sh
#   make V=1                  show whole commands
#   make DEPS=FOLDER          where headers and libraries lie that are not installed (FOLDER/usr/include, FOLDER/usr/lib/...)
#
# The result is in build/TARGET (bf16), build/TARGET-fp32, with -checked behind it for a sanitizer build (-race: thread).

TARGET    ?= $(if $(wildcard /dev/nvidia0),cuda,cpu)
PRECISION ?= bf16
SANITIZE  ?=
COVERAGE  ?=
DEPS      ?=

VARIANT := $(if $(filter fp32,$(PRECISION)),-fp32)$(if $(SANITIZE),-$(if $(filter thread,$(SANITIZE)),race,checked))
BUILD ?= build/$(TARGET)$(VARIANT)$(if $(COVERAGE),-coverage)$(if $(filter portable,$(MACHINE)),-portable)

ifeq ($(filter cpu cuda cuda-on-cpu,$(TARGET)),)
$(error TARGET is '$(TARGET)', expected cpu, cuda or cuda-on-cpu)
endif
ifeq ($(filter bf16 fp32,$(PRECISION)),)
$(error PRECISION is '$(PRECISION)', expected bf16 or fp32)
endif

KERNEL_SOURCES := $(sort $(wildcard llmc/kernels/*.cu))
# C11 on either target; their names follow the trainers in the style of llm.c
ROOT_PROGRAMS := $(patsubst %.cu,%,$(sort $(wildcard *.cu)))
TOOLS         := average_llama3 merge_lora

comma := ,
# $(call step,NAME): a short line in place of the command
step = $(if $(V),,@printf '  %-5s %s\n' $(1) '$(patsubst $(BUILD)/%,%,$@)';)
DEFINES  := -D_GNU_SOURCE -DLLMC_PRECISION_$(PRECISION)
WARNINGS := -Wall -Wextra $(if $(WERROR),-Werror)
# In quotes, as the folder's name may have a space. -isystem: no dependencies on its files, whose names make would split.
# Old tags: the path then serves what these libraries need themselves, too.
DEPS_INCLUDES := $(if $(DEPS),-isystem '$(DEPS)/usr/include')
# what the compiler compiles for, as x86_64 or aarch64
ARCHITECTURE = $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))
DEPS_LIB = $(DEPS)/usr/lib/$(ARCHITECTURE)-linux-gnu
INCLUDES := -Illmc $(DEPS_INCLUDES)
LIBDIRS   = $(if $(DEPS),-L'$(DEPS_LIB)' -Xlinker --disable-new-dtags -Xlinker -rpath -Xlinker "$$(realpath '$(DEPS_LIB)')")

# $(call nvidia,compile or link,HEADER,LIBRARY): options, empty where it is not found
nvidia = $(shell CUDA_HOME='$(CUDA_HOME)' DEPS='$(DEPS)' scripts/find_nvidia.sh $(1) $(2) $(3))

.DEFAULT_GOAL := all

# a change of flags rebuilds
MAKEFILES_USED := Makefile $(TARGET).mk

include $(TARGET).mk
USE_CUDNN ?= 0

MPI ?= $(if $(shell command -v mpicc),1,0)
ifeq ($(MPI),1)
DEFINES  += -DLLMC_WITH_MPI
INCLUDES += $(patsubst -I%,-isystem %,$(shell mpicc --showme:compile))
LIBS     += $(shell mpicc --showme:link)
endif

# llmc/comm/mpi_*.c and nccl_*.c belong to what they are named after; without cuDNN, one file has its functions, which refuse
LEFT_OUT  := $(if $(filter 1,$(MPI)),,llmc/comm/mpi_%) $(if $(filter 1,$(NCCL)),,llmc/comm/nccl_%) $(if $(filter 1,$(USE_CUDNN)),llmc/kernels/attention_cudnn_none.c)
C_SOURCES := $(filter-out $(LEFT_OUT) $(TOOLS:%=llmc/tools/%.c),$(sort $(wildcard llmc/*/*.c)))
C_OBJECTS      := $(C_SOURCES:%.c=$(BUILD)/obj/%.o)
KERNEL_OBJECTS := $(KERNEL_SOURCES:%=$(BUILD)/obj/%.o)
TARGET_OBJECTS := $(TARGET_SOURCES:%=$(BUILD)/obj/%.o) $(if $(filter 1,$(USE_CUDNN)),$(BUILD)/obj/llmc/kernels/attention_cudnn.cpp.o)
KERNELS        ?= $(KERNEL_OBJECTS) $(TARGET_OBJECTS)
LIBRARY        := $(BUILD)/libllmc.so
ORACLE         := $(BUILD)/obj/dev/reference/oracle.o

.PHONY: all clean FORCE
all: $(LIBRARY) $(ROOT_PROGRAMS:%=$(BUILD)/%) $(TOOLS:%=$(BUILD)/%) $(BUILD)/liboracle.so $(BUILD)/libtrain_llama3.so

# what TARGET=cuda-on-cpu takes from the cpu target
.PHONY: device-objects
device-objects: $(KERNEL_OBJECTS) $(TARGET_OBJECTS)

ifeq ($(USE_CUDNN),1)
include cudnn.mk
endif

COMPILE_C = $(call step,CC)$(CC) -std=c11 -pedantic $(WARNINGS) $(CFLAGS) $(DEFINES) $(INCLUDES) -MMD -MP -c -x c $< -o $@

# a change of what is left out rebuilds, and of the processor
SETTINGS := MPI=$(MPI) NCCL=$(NCCL) MACHINE=$(MACHINE)
$(BUILD)/settings: FORCE
	@mkdir -p $(@D) && echo '$(SETTINGS)' | cmp -s - $@ || echo '$(SETTINGS)' >$@

$(BUILD)/obj/%.o: %.c $(MAKEFILES_USED) $(BUILD)/settings
	@mkdir -p $(@D)
	$(COMPILE_C)

$(ROOT_PROGRAMS:%=$(BUILD)/obj/%.o): $(BUILD)/obj/%.o: %.cu $(MAKEFILES_USED) $(BUILD)/settings
	@mkdir -p $(@D)
	$(COMPILE_C)

# what --version says; it is compiled again when that has changed
VERSION := $(shell scripts/version.sh), $(TARGET), $(PRECISION)$(if $(filter 1,$(USE_CUDNN)),$(comma) cuDNN)
$(BUILD)/version: FORCE
	@mkdir -p $(@D) && echo '$(VERSION)' | cmp -s - $@ || echo '$(VERSION)' >$@
$(BUILD)/obj/llmc/base/version.o: $(BUILD)/version
$(BUILD)/obj/llmc/base/version.o: DEFINES += -DLLMC_BUILD='"$(VERSION)"'

$(LIBRARY) $(BUILD)/libtrain_llama3.so: $(C_OBJECTS) $(KERNELS)
	$(call step,LINK)$(LINK) -shared $(SHARED_FLAGS) -o $@ $(filter %.o,$^) $(LIBDIRS) $(LIBS)

# a part of MACHINE=portable: see cpu.mk
$(BUILD)/libllmc_kernels.so: $(KERNEL_OBJECTS) $(TARGET_OBJECTS)
	$(call step,LINK)$(LINK) -shared $(SHARED_FLAGS) -o $@ $^ $(LIBDIRS) $(KERNEL_LIBS)

# the library with the training loop, for the tests that take a run step by step
$(BUILD)/libtrain_llama3.so: $(BUILD)/obj/train_llama3.o

LINK_PROGRAM = $(call step,LINK)$(LINK) -o $@ $(filter %.o,$^) -L$(BUILD) -lllmc $(LINK_RPATH) $(LIBDIRS) $(LIBS)

$(BUILD)/test_llama3: $(ORACLE)
$(ROOT_PROGRAMS:%=$(BUILD)/%): $(BUILD)/%: $(BUILD)/obj/%.o $(LIBRARY)
	$(LINK_PROGRAM)

$(TOOLS:%=$(BUILD)/%): $(BUILD)/%: $(BUILD)/obj/llmc/tools/%.o $(LIBRARY)
	$(LINK_PROGRAM)

# for the tests that compare the oracle with PyTorch
$(BUILD)/liboracle.so: $(ORACLE) $(LIBRARY)
	$(LINK_PROGRAM) -shared

include fuzz.mk

clean:
	rm -rf build

-include $(C_OBJECTS:.o=.d) $(KERNEL_OBJECTS:.o=.d) $(TARGET_OBJECTS:.o=.d) $(ROOT_PROGRAMS:%=$(BUILD)/obj/%.d) $(TOOLS:%=$(BUILD)/obj/llmc/tools/%.d) $(ORACLE:.o=.d) $(wildcard $(BUILD)/obj/tests/*/*.d $(BUILD)/obj/tests/*/*/*.d)
