# The cpu target: kernels compiled by g++ against the CPU's stand-in for CUDA (llmc/cpu), matrix products by oneDNN.
CC  := gcc
CXX := g++

OPTIMIZE := $(if $(SANITIZE),-O1 -fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer,-O3 -fno-math-errno -fno-trapping-math)
# initial-exec: thread-local state (the running kernel thread) is read at an offset, without a call
MACHINE  := -march=native -ftls-model=initial-exec
CFLAGS   := -g -fPIC $(OPTIMIZE) $(MACHINE) -fopenmp
CXXFLAGS := -std=c++17 $(CFLAGS)

NCCL     := 0
DEFINES  += -DLLMC_TARGET_CPU
INCLUDES += -Illmc/cpu
LIBS     := -ldnnl -lboost_context -lcjson -lpcre2-8 -lm
LINK     := g++ -fopenmp $(if $(SANITIZE),-fsanitize=$(SANITIZE))
# the library keeps to its own cudaMalloc and so on, also in a process that has NVIDIA's loaded (PyTorch)
SHARED_FLAGS := -Wl,-Bsymbolic
LINK_RPATH := -Wl,-rpath,'$$ORIGIN'
TARGET_SOURCES := $(sort $(wildcard llmc/cpu/*.cpp)) $(wildcard llmc/device/*.cpp)

$(BUILD)/obj/%.cu.o: %.cu $(MAKEFILES_USED)
	@mkdir -p $(@D)
	$(call step,CXX)$(CXX) -x c++ $(WARNINGS) -Wno-unknown-pragmas $(CXXFLAGS) $(DEFINES) $(INCLUDES) -MMD -MP -c $< -o $@

# The scheduler tells ThreadSanitizer what orders threads and is not watched itself.
ifneq ($(filter thread,$(SANITIZE)),)
$(BUILD)/obj/llmc/cpu/%.cpp.o: CXXFLAGS += -fno-sanitize=thread -DLLMC_HOST_RACES
endif

$(BUILD)/obj/%.cpp.o: %.cpp $(MAKEFILES_USED)
	@mkdir -p $(@D)
	$(call step,CXX)$(CXX) $(WARNINGS) $(CXXFLAGS) $(DEFINES) $(INCLUDES) -MMD -MP -c $< -o $@

# Programs of the tests: a kernel beside the CPU target, without the library (make build/cpu/tests/cpu/planted/NAME).
$(BUILD)/tests/%: $(BUILD)/obj/tests/%.cu.o $(filter $(BUILD)/obj/llmc/cpu/% %/matrix_cpu.cpp.o,$(TARGET_SOURCES:%=$(BUILD)/obj/%.o))
	@mkdir -p $(@D)
	$(call step,LINK)$(LINK) -o $@ $^ $(LIBDIRS) -lboost_context

.PRECIOUS: $(BUILD)/obj/tests/%.cu.o
