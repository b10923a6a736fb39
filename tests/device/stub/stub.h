/* Counted functions. */
#pragma once

struct call {
    const char *name;
    long count;
    struct call *next;
};

void stub_count(struct call *call);

#define COUNT()                                                                                                          \
    do {                                                                                                                 \
        static struct call here = {__func__};                                                                            \
        stub_count(&here);                                                                                               \
    } while (0)

/* Functions that only succeed. They are weak, so that stub.c can define the same name with a result. */
#define WEAK __attribute__((weak))
#define NOTHING(name) WEAK long name(void) { COUNT(); return 0; }
#define HANDLE(name) WEAK long name(void **handle) { COUNT(); *handle = (void *)64; return 0; }
#define TEXT(name) WEAK const char *name(void) { return "an error that no stub gives"; }
