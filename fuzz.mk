# Fuzz targets: the readers of files from outside, without kernels or device, under AddressSanitizer and UBSan.
#
#   make fuzz            build/fuzz/NAME, with clang's libFuzzer
#   make fuzz-replay     build/fuzz/replay/NAME: runs the files named on its command line once; any compiler
FUZZ_BUILD   := build/fuzz
FUZZ_CC      ?= clang
FUZZ_NAMES   := $(patsubst tests/fuzz/fuzz_%.c,%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
FUZZ_SOURCES := $(sort $(wildcard llmc/base/*.c llmc/loader/*.c llmc/model/config_*.c llmc/recipe/recipe_*.c)) llmc/model/no_model.c \
                llmc/model/parameters.c llmc/eval/items.c tests/fuzz/common.c \
                $(filter-out %_writer.c,$(sort $(wildcard llmc/checkpoint/safetensors_*.c)))
FUZZ_FLAGS   := -std=c11 -pedantic $(WARNINGS) -g -O1 -fno-omit-frame-pointer -fno-sanitize-recover=all \
                -D_GNU_SOURCE -DLLMC_PRECISION_bf16 -Illmc -Itests/fuzz $(DEPS_INCLUDES) -MMD -MP
FUZZ_LIBS    := $(LIBDIRS) -lcjson -lpcre2-8 -lxxhash -lm

.PHONY: fuzz fuzz-replay
fuzz: $(FUZZ_NAMES:%=$(FUZZ_BUILD)/%)
fuzz-replay: $(FUZZ_NAMES:%=$(FUZZ_BUILD)/replay/%)

$(FUZZ_BUILD)/obj/%.o: %.c Makefile fuzz.mk
	@mkdir -p $(@D)
	$(call step,CC)$(FUZZ_CC) $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link,address,undefined -c $< -o $@

$(FUZZ_BUILD)/replay/obj/%.o: %.c Makefile fuzz.mk
	@mkdir -p $(@D)
	$(call step,CC)$(CC) $(FUZZ_FLAGS) -fsanitize=address,undefined -c $< -o $@

$(FUZZ_NAMES:%=$(FUZZ_BUILD)/%): $(FUZZ_BUILD)/%: $(FUZZ_BUILD)/obj/tests/fuzz/fuzz_%.o $(FUZZ_SOURCES:%.c=$(FUZZ_BUILD)/obj/%.o)
	$(call step,LINK)$(FUZZ_CC) -fsanitize=fuzzer,address,undefined -o $@ $^ $(FUZZ_LIBS)

$(FUZZ_NAMES:%=$(FUZZ_BUILD)/replay/%): $(FUZZ_BUILD)/replay/%: $(FUZZ_BUILD)/replay/obj/tests/fuzz/fuzz_%.o \
    $(FUZZ_BUILD)/replay/obj/tests/fuzz/replay.o $(FUZZ_SOURCES:%.c=$(FUZZ_BUILD)/replay/obj/%.o)
	$(call step,LINK)$(CC) -fsanitize=address,undefined -o $@ $^ $(FUZZ_LIBS)

-include $(shell find $(FUZZ_BUILD) -name '*.d' 2>/dev/null)
