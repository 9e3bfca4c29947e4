# USE_CUDNN=1: attention by cuDNN too (train_llama3 --attention cudnn). It takes cuDNN 9 (Debian packages of NVIDIA's, or pip's
# nvidia-cudnn-cu13) and the headers of NVIDIA's cudnn-frontend. Default: 0 for cuda; 1 for cuda-on-cpu where both are found.
MAKEFILES_USED += cudnn.mk
ifeq ($(TARGET),cpu)
$(error USE_CUDNN=1: cuDNN computes on a GPU, expected TARGET=cuda)
endif
CUDNN_LINK     := $(call nvidia,link,cudnn.h,cudnn)
CUDNN_FRONTEND := $(call nvidia,compile,cudnn_frontend.h)
ifeq ($(CUDNN_LINK),)
$(error USE_CUDNN=1: scripts/find_nvidia.sh finds no cudnn.h with libcudnn.so; one way is: pip install nvidia-cudnn-cu13)
endif
ifeq ($(CUDNN_FRONTEND),)
$(error USE_CUDNN=1: scripts/find_nvidia.sh finds no cudnn_frontend.h; one way is: pip install --no-deps nvidia-cudnn-frontend==1.18.0)
endif
CUDNN_COMPILE := $(call nvidia,compile,cudnn.h,cudnn)

# Only calls of the library are made here, and the headers take long: little is optimized, and nothing is kept for debuggers. At
# -O0, uncalled functions of the headers stay, and the stand-in would have to define what they call.
CUDNN_OBJECT := $(BUILD)/obj/llmc/kernels/attention_cudnn.cpp.o
$(CUDNN_OBJECT): llmc/kernels/attention_cudnn.cpp $(MAKEFILES_USED)
	@mkdir -p $(@D)
	$(call step,CXX)g++ -std=c++17 $(WARNINGS) -O1 $(if $(COVERAGE),--coverage) -fPIC $(DEFINES) -DCUDNN_FRONTEND_SKIP_JSON_LIB $(INCLUDES) $(CUDNN_COMPILE) $(CUDNN_FRONTEND) -MMD -MP -c $< -o $@

ifeq ($(TARGET),cuda)
LIBS += $(CUDNN_LINK)
else
$(BUILD)/obj/dev/standins/cudnn%.cpp.o: INCLUDES += $(CUDNN_COMPILE)

# for the test that plans with the real library: the shipped file with it, in place of the stand-in
all: $(BUILD)/libcudnn_plans.so
$(BUILD)/libcudnn_plans.so: $(CUDNN_OBJECT) $(BUILD)/obj/llmc/base/error.o $(filter $(BUILD)/obj/llmc/cpu/% %/runtime.cpp.o %/guard.cpp.o %/standins.cpp.o,$(TARGET_OBJECTS))
	$(call step,LINK)$(LINK) -shared $(SHARED_FLAGS) -Wl,--no-undefined -o $@ $^ $(CUDNN_LINK) $(LIBDIRS) -lboost_context
endif
