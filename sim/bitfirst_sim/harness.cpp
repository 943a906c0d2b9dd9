// Runs the compiled RTL as a board: bytes in on standard input, bytes out on standard output.
//
// Message, host to simulator: one byte kind, eight bytes argument (little endian), then, for SEND, that many bytes.
//   SEND  bytes          queue bytes for the device; no time passes
//   RECV  least bytes    run the clock until that many bytes have come out, or until the device is idle and has taken
//                        every whole word of input; answer with all bytes that came out
//   TRACE 0 or 1         stop or start writing waveforms, or counting toggles
//   WAIT  cycles         run the clock for so long, whatever the device does; no answer
//   JOULES 0             answer with what the device has taken in each of 8 phases, as doubles: the truth behind sensors
//   WATTS 1              record what the device takes, as the mean of each span of some cycles
//   WATTS 0              no longer; answer with the cycles of a span and the count of spans, eight bytes each, their watts
//                        as doubles, their phases as bytes
//   TOGGLES 0            answer with how many files of toggles there are, in eight bytes; all of them are whole
//   QUIT  0              end; so does the end of standard input
// Answer to RECV: one byte outcome, eight bytes clock cycles since reset, eight bytes count, then that many bytes.
//
// The clock runs inside RECV and WAIT alone, so simulated time is a function of the messages.

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "Vcore.h"
#include "Vcore__Dpi.h"
#ifdef SENSORS
#include "rails.hpp"
#endif
#if VM_TRACE_SAIF
#include <memory>
#include <string>

#include "verilated_saif_c.h"
#elif VM_TRACE
#include "verilated_vcd_c.h"
#endif

namespace {

constexpr uint64_t POLL_CYCLES = 1 << 16;
constexpr uint64_t HALF_PERIOD_PS = 5000;
enum Kind : uint8_t { SEND = 1, RECV = 2, TRACE = 3, QUIT = 4, WAIT = 5, JOULES = 6, TOGGLES = 7, WATTS = 8 };
enum Outcome : uint8_t { DONE = 0, CYCLE_LIMIT = 1, HOST_GONE = 2 };

constexpr size_t WORD_BYTES = LINK_BITS / 8;

struct Options {
    uint64_t cycle_limit;
    uint64_t seed;
    uint64_t input_idle;    // probability that no word is offered, in 2**-32
    uint64_t output_stall;  // probability that no word is taken, in 2**-32
    const char* trace_path;  // of waveforms a file, of toggles a folder
};

bool read_all(void* to, size_t count) {
    for (auto* bytes = static_cast<uint8_t*>(to); count;) {
        const ssize_t got = read(STDIN_FILENO, bytes, count);
        if (got <= 0) return false;
        bytes += got;
        count -= static_cast<size_t>(got);
    }
    return true;
}

bool write_all(const void* from, size_t count) {
    for (auto* bytes = static_cast<const uint8_t*>(from); count;) {
        const ssize_t put = write(STDOUT_FILENO, bytes, count);
        if (put <= 0) return false;
        bytes += put;
        count -= static_cast<size_t>(put);
    }
    return true;
}

bool host_is_gone() {
    pollfd in{STDIN_FILENO, 0, 0};
    return poll(&in, 1, 0) > 0 && (in.revents & (POLLHUP | POLLERR));
}

// xorshift64* (Vigna 2016)
class Random {
public:
    explicit Random(uint64_t seed) : state(seed * 2 + 1) {}
    bool chance(uint64_t probability) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return ((state * 0x2545F4914F6CDD1DULL) >> 32) < probability;
    }

private:
    uint64_t state;
};

#if VM_TRACE_SAIF
// Counts the toggles of all nets: in a folder a file N.PHASE.saif for each stretch of cycles in one phase.
//
// Verilator's writer takes every bit for low before it begins, so it counts one that is high then as a toggle. Beside
// each file stands N.PHASE.start.saif, which has these alone.
class Activity {
public:
    Activity(Vcore& core, const char* folder) : core(core), folder(folder) {}

    // The files of the next stretch.
    void begin(unsigned phase) {
        const std::string path = folder + "/" + std::to_string(stretches++) + "." + std::to_string(phase);
        open(path + ".start.saif");
        open(path + ".saif");
        now_ps = 0;
    }

    // After each level of the clock.
    void dump() { file->dump(now_ps += HALF_PERIOD_PS); }

    // The file is whole then.
    void end() { file.reset(); }

    bool is_open() const { return file != nullptr; }

    uint64_t stretches = 0;

private:
    void open(const std::string& path) {
        file = std::make_unique<VerilatedSaifC>();  // ends the one before
        core.trace(file.get(), 99);
        file->open(path.c_str());
        file->dump(uint64_t{0});
    }

    Vcore& core;
    const std::string folder;
    std::unique_ptr<VerilatedSaifC> file;
    uint64_t now_ps = 0;
};
#endif

class Board {
public:
    explicit Board(const Options& options) : options(options), random(options.seed) {
        context.time(0);
#if VM_TRACE
        context.traceEverOn(true);
        tracing = true;
#if !VM_TRACE_SAIF
        core.trace(&trace, 99);
        trace.open(options.trace_path);
#endif
#endif
        core.eval();  // the clock's first level is no edge
    }

    ~Board() {
#if VM_TRACE_SAIF
        activity.end();
#elif VM_TRACE
        trace.close();
#endif
        core.final();
    }

    void queue(const std::vector<uint8_t>& bytes) {
        input.erase(input.begin(), input.begin() + static_cast<ptrdiff_t>(taken));
        taken = 0;
        input.insert(input.end(), bytes.begin(), bytes.end());
    }

    void wait(uint64_t count) {
        for (; count; --count) tick();
    }

    void set_tracing(bool on) { tracing = on; }

#if VM_TRACE_SAIF
    // Ends the stretch under way; how many there were.
    uint64_t stretches() {
        activity.end();
        return activity.stretches;
    }
#endif

    // The host's end of the link, in each cycle; see wrapper.sv.
    void exchange(bool word_taken, bool given, const void* word, svBit* offers, void* next_word, svBit* takes) {
        if (word_taken) {
            taken += WORD_BYTES;
            offered = false;
        }
        if (given) {
            const auto* bytes = static_cast<const uint8_t*>(word);
            output.insert(output.end(), bytes, bytes + WORD_BYTES);
        }
        // A word once offered stays: a stream's valid never falls before the transfer.
        offered = waiting() && (offered || !happens(options.input_idle));
        std::memset(next_word, 0, WORD_BYTES);
        if (offered) std::memcpy(next_word, &input[taken], WORD_BYTES);
        *offers = offered;
        *takes = !happens(options.output_stall);
    }

    Outcome run(size_t least_bytes) {
        output.clear();
        const uint64_t limit = cycles + options.cycle_limit;
        uint64_t next_poll = std::min(limit, cycles + POLL_CYCLES);
        while (output.size() < least_bytes) {
            if (core.resting && !waiting()) break;
            tick();
            if (cycles < next_poll) continue;
            if (cycles >= limit) return CYCLE_LIMIT;
            if (host_is_gone()) return HOST_GONE;
            next_poll = std::min(limit, cycles + POLL_CYCLES);
        }
        return DONE;
    }

    std::vector<uint8_t> output;
    uint64_t cycles = 0;

private:
    bool waiting() const { return input.size() - taken >= WORD_BYTES; }

    bool happens(uint64_t probability) { return probability && random.chance(probability); }

    // One cycle. Without waveforms the device is clocked by both edges, so that this is one evaluation.
    void tick() {
#if VM_TRACE_SAIF
        if (!tracing || core.phase != phase) activity.end();
        if (tracing && !activity.is_open()) activity.begin(phase = core.phase);
#endif
        core.clocks ^= core.moves;  // as they are after the evaluation before
        core.clk = !core.clk;
        core.eval();
        dump();
#if VM_TRACE
        core.clk = !core.clk;
        core.eval();
        dump();
#endif
        ++cycles;
    }

    void dump() {
#if VM_TRACE_SAIF
        if (tracing) activity.dump();
#elif VM_TRACE
        if (tracing) trace.dump(context.time());
        context.timeInc(HALF_PERIOD_PS);
#endif
    }

    const Options options;
    Random random;
    VerilatedContext context;
    Vcore core{&context};
#if VM_TRACE_SAIF
    Activity activity{core, options.trace_path};
    unsigned phase = 0;
#elif VM_TRACE
    VerilatedVcdC trace;
#endif
    std::vector<uint8_t> input;
    size_t taken = 0;
    bool offered = false;
    bool tracing = false;
};

Board* board;  // there is one, for `serve` and for the Verilog
#ifdef SENSORS
sensors::Rails* rails;  // likewise
#endif

bool answer(const Board& board, Outcome outcome) {
    uint8_t head[17];
    const uint64_t count = board.output.size();
    head[0] = outcome;
    std::memcpy(head + 1, &board.cycles, 8);
    std::memcpy(head + 9, &count, 8);
    return write_all(head, sizeof head) && write_all(board.output.data(), board.output.size());
}

#ifdef SENSORS
bool write_recorded() {
    const uint64_t count = rails->recorded_watts.size(), head[] = {sensors::SPAN, count};
    return write_all(head, sizeof head) && write_all(rails->recorded_watts.data(), count * sizeof(double)) &&
           write_all(rails->recorded_phases.data(), count);
}
#endif

void serve() {
    uint8_t head[9];
    std::vector<uint8_t> bytes;
    while (read_all(head, sizeof head)) {
        uint64_t argument;
        std::memcpy(&argument, head + 1, 8);
        switch (head[0]) {
            case SEND:
                bytes.resize(argument);
                if (!read_all(bytes.data(), argument)) return;
                board->queue(bytes);
                break;
            case RECV:
                if (!answer(*board, board->run(argument))) return;
                break;
            case TRACE:
                board->set_tracing(argument != 0);
                break;
            case WAIT:
                board->wait(argument);
                break;
#ifdef SENSORS
            case JOULES:
                if (!write_all(rails->joules, sizeof rails->joules)) return;
                break;
            case WATTS:
                if (!argument && !write_recorded()) return;
                rails->record(argument != 0);
                break;
#endif
#if VM_TRACE_SAIF
            case TOGGLES: {
                const uint64_t count = board->stretches();
                if (!write_all(&count, sizeof count)) return;
                break;
            }
#endif
            case QUIT:
                return;
            default:
                std::fprintf(stderr, "unknown message %u\n", head[0]);
                std::exit(1);
        }
    }
}

}  // namespace

void exchange(svBit taken, svBit given, const svBitVecVal* word, svBit* offered, svBitVecVal* next_word, svBit* takes) {
    board->exchange(taken, given, word, offered, next_word, takes);
}

#ifdef SENSORS
void sense(const svBitVecVal* pins, const svBitVecVal* work, const svBitVecVal* phase, svBitVecVal* levels) {
    *levels = rails->cycle(*pins, *work, *phase);
}
#endif

void resting_unit_changes(const char* unit_name, const char* register_name) {
    std::fprintf(stderr, "%s changes %s in cycle %llu, in which it rests\n", unit_name, register_name,
                 static_cast<unsigned long long>(board->cycles));
    std::_Exit(1);
}

int main(int argc, char** argv) {
    if (argc != 7) {
        std::fprintf(stderr, "usage: simulator CYCLE_LIMIT SEED INPUT_IDLE OUTPUT_STALL TRACE_PATH RAILS\n");
        return 2;
    }
    const auto number = [&](int i) { return std::strtoull(argv[i], nullptr, 10); };
    Board only({number(1), number(2), number(3), number(4), argv[5]});
    board = &only;
#ifdef SENSORS
    sensors::Rails all(argv[6]);
    rails = &all;
#endif
    serve();
    return 0;
}
