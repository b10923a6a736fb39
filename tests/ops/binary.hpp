// A program around the kernels of one source, for sanitizers: it reads a launch from a file and writes what its pointers then hold.
// Written and read by host.py; every tensor becomes a block of memory of exactly its size, on the same place of 16 bytes as it had.
#pragma once

namespace host {

struct Launch {
    char name[64];
    unsigned sizes[6], shared, count;
};

// An argument: a number, a pointer of its own memory, the pointer of an argument before it (`same`), or none (`size` of -1).
struct Argument {
    char kind;
    long long same, size, offset;
    unsigned long long value;
};

template <class T>
void read(std::FILE* file, T* values, std::size_t count) {
    if (std::fread(values, sizeof(T), count, file) != count) std::abort();
}

inline int run(const char* launch_path, const char* result_path) {
    std::FILE* file = std::fopen(launch_path, "rb");
    Launch launch;
    read(file, &launch, 1);
    std::vector<Argument> arguments(launch.count);
    std::vector<void*> addresses;
    std::vector<std::unique_ptr<char[]>> memory(launch.count);
    std::string kinds;
    for (unsigned i = 0; i < launch.count; ++i) {
        Argument& argument = arguments[i];
        read(file, &argument, 1);
        kinds += argument.kind;
        addresses.push_back(&argument.value);
        if (argument.kind != 'p' || argument.size < 0) continue;
        if (argument.same >= 0) {
            argument.value = arguments[argument.same].value;
            continue;
        }
        memory[i].reset(new char[argument.offset + argument.size]);
        read(file, memory[i].get() + argument.offset, argument.size);
        argument.value = reinterpret_cast<unsigned long long>(memory[i].get() + argument.offset);
    }
    std::fclose(file);
    for (const Entry& entry : entries) {
        if (std::strcmp(entry.name, launch.name) != 0) continue;
        if (const char* failed = entry.launch(launch.sizes, launch.shared, kinds.c_str(), addresses.data())) {
            std::fprintf(stderr, "%s\n", failed);
            return 1;
        }
    }
    file = std::fopen(result_path, "wb");
    for (unsigned i = 0; i < launch.count; ++i)
        if (memory[i]) std::fwrite(memory[i].get() + arguments[i].offset, 1, arguments[i].size, file);
    std::fclose(file);
    return 0;
}

}  // namespace host

int main(int, char** arguments) { return host::run(arguments[1], arguments[2]); }
