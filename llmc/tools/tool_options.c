#include "tools/tool_options.h"

#include <string.h>

int tool_take_folder(const char **folder, const char *option, const char *text, Error *err) {
    *folder = text;
    return *text ? 0 : fail_input(err, "option %s: expected DIR, found an empty string", option);
}

int tool_take_type(ModelType *type, const char *text, Error *err) {
    for (int i = 0; i < MODEL_TYPES; i++) {
        if (strcmp(text, model_type_name((ModelType)i)) != 0) continue;
        *type = (ModelType)i;
        return 0;
    }
    return fail_input(err, "option --dtype: expected one of same|fp32|bf16, found '%s'", text);
}
